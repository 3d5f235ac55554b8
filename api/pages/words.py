"""The page's two languages: every text is written in English where it is used, and
stands here in Chinese.

Names that people also write in requests (methods, scores, metrics) and the API's own
sentences are the same in both.
"""

from __future__ import annotations

from analytics.training.outcome import WARNINGS

LANGUAGES = ("en", "zh")

CHINESE: dict[str, str] = {
    # The frame
    "To the content": "跳到正文",
    "Dark": "深色",
    "Light": "浅色",
    "Sign in": "登录",
    "Sign out": "退出",
    "This address is not encrypted. Open it as https://, or through a tunnel to the coordinator's machine.": (
        "此地址未加密。请用 https:// 打开，或通过隧道连接到协调方的机器。"
    ),
    "Your token for the API: of a hospital's user, or the operator's": "您的 API 令牌（医院用户或管理员）",
    "This token is not known or was revoked. Ask the operator for a new one.": (
        "令牌无效或已被撤销，请向管理员索取新令牌。"
    ),
    "This session has ended. Sign in again.": "会话已结束，请重新登录。",
    "This token makes too many calls. Wait a second, then go on.": "此令牌调用过于频繁，请稍候再试。",
    "Save picture (PNG)": "保存图片（PNG）",
    "Save numbers (CSV)": "保存数据（CSV）",
    "Yes": "是",
    "No": "否",
    "Copy": "复制",
    "Pages": "分页",
    "Newest": "最新",
    "Older": "更早",
    "When": "时间",
    "What": "事项",
    "Is": "内容",
    "Type": "类型",
    "operator": "管理员",
    "hospital": "医院",
    "agent": "代理程序",
    "open": "未启用登录",
    # Hospitals
    "Hospitals": "医院",
    "Hospital": "医院",
    "Number": "编号",
    "State": "状态",
    "Last seen": "最近在线",
    "Agent": "代理程序版本",
    "Scoring": "评分级别",
    "Fingerprint": "密钥指纹",
    "Online": "在线",
    "online": "在线",
    "away": "离线",
    "never connected": "从未连接",
    "none": "无",
    "round": "单轮",
    "full": "完整",
    "The coordinator learns nothing of single gradients.": "协调方对单个梯度一无所知。",
    "Lengths and angles of the gradients of one round.": "同一轮内各梯度的长度和夹角。",
    "Lengths and angles, also from one round to the next.": "长度和夹角，以及与上一轮之间的变化。",
    "These are the rules that each agent has told of its policy. The policy itself stays at the hospital and decides "
    "there, and which tables, columns and files it opens is told to nobody.": (
        "以上是各代理程序上报的策略规则。策略文件本身只存于医院，并由医院据此裁决；"
        "它开放了哪些表、列和文件，不上报给任何人。"
    ),
    "What each policy lets others do": "各医院策略允许他人做什么",
    "nothing told": "未上报",
    "From: {names}": "可发起方：{names}",
    "Results to: {names}": "可接收方：{names}",
    "Methods: {words}": "方法：{words}",
    "Models: {words}": "模型：{words}",
    "At least {n} hospitals in any sum": "任何求和至少 {n} 家医院",
    "At least {n} hospitals in any answer": "任何结果至少 {n} 家医院",
    "At least {n} rows": "至少 {n} 行",
    "At least {n} rows, unless a table sets its own": "至少 {n} 行，除非数据表另有规定",
    "At least {n} rows, in a group those of all hospitals together": "至少 {n} 行，分组时按所有医院合计",
    "At most {n} rounds in {days} days": "{days} 天内最多 {n} 轮",
    "Layers of at least {n} coefficients": "每层至少 {n} 个系数",
    "May be asked again with other hospitals over the same rows": "同样的行可以与其他医院再次计算",
    "Opens sums of its rows alone": "可公开仅含本院行的合计",
    "The same people compared once in {n} days": "同一批人在 {n} 天内只比较一次",
    "The coordinator's parts last until all hospitals have sent theirs; each hospital's times are by its own clock.": (
        "协调方的步骤包含等待各医院的时间；各医院的时间以其自身时钟为准。"
    ),
    "A person there decides on every order": "每个任务由该院人员审批",
    "Read by the operator only": "仅管理员可查看",
    "Predictions": "预测",
    "For its own users": "仅限本院用户",
    "Only at the hospital": "仅在医院本地",
    "Predictions may pass through the coordinator's memory": "预测结果可经由协调方内存",
    "Answers may pass through the coordinator's memory": "结果可经由协调方内存",
    "Tells smallest and largest values": "可给出最小值和最大值",
    "Tells exact quantiles": "可给出精确分位数",
    "Computes row by row with other hospitals' columns": "可与其他医院的列逐行计算",
    "no": "不允许",
    "Compare fingerprints by telephone: one shown here proves nothing.": (
        "请通过电话核对指纹：此处显示的指纹不能证明任何事。"
    ),
    # Orders
    "Orders": "任务",
    "New order": "新建训练任务",
    "Order": "任务",
    "Order {n}": "任务 {n}",
    "Kind": "类别",
    "Progress": "进度",
    "Asked by": "发起方",
    "Method": "方法",
    "Created": "创建时间",
    "There is no order yet.": "还没有任务。",
    "training": "训练",
    "predictions": "预测",
    "joint statistics": "联合统计",
    "evaluation": "评估",
    "new rows": "新数据",
    "Model {n}": "模型 {n}",
    "Curves are at the hospitals: ./run agent report --evaluation {n}": (
        "曲线在各医院查看：./run agent report --evaluation {n}"
    ),
    "log_loss": "对数损失 log_loss",
    "brier": "Brier 评分",
    "auc_se": "AUC 的标准误 auc_se",
    "sensitivity": "灵敏度 sensitivity",
    "specificity": "特异度 specificity",
    "recorded elsewhere": "外部记录",
    "pending": "等待中",
    "running": "进行中",
    "waiting": "等待中",
    "success": "成功",
    "failed": "失败",
    "refused": "被拒绝",
    "cancelled": "已取消",
    "skipped": "已跳过",
    "active": "启用",
    "paused": "已暂停",
    # One order
    "Loss on training rows": "训练数据上的损失",
    "loss": "损失 loss",
    "accuracy": "准确率 accuracy",
    "Metric": "指标",
    "On": "数据",
    "Part": "部分",
    "training rows": "训练数据",
    "held-out rows": "留出数据",
    "All hospitals together": "所有医院合计",
    "Held-out rows: a fold's own part, the validation part, or the rows of the test SQL": (
        "留出数据：各折自身的留出部分、验证部分，或测试 SQL 的数据"
    ),
    "All folds": "全部折",
    "Final model": "最终模型",
    "Training ended": "训练结束方式",
    "it had converged": "已收敛",
    "by max_iter, before it had converged": "达到 max_iter，尚未收敛",
    WARNINGS["max_iter"]: (
        "训练因达到 max_iter 而结束，尚未收敛，模型可能没有训练完成：请增大 max_iter，或使用 nesterov_momentum_sgd。"
        "无正则项的 lr 或 softmax 若仍不结束，可能有属性在部分数据中把某一类别分开，其系数会不断增长："
        "请使用 penalty L2。"
    ),
    WARNINGS["constant"]: (
        "最终损失不低于对所有数据给出同一答案的常数模型，此模型没有用处：请将 standardize 设为 true，"
        "或减小 learning_rate 并增大 max_iter。"
    ),
    WARNINGS["separated"]: (
        "模型对每一行训练数据都判断正确，且没有正则项：这些属性把类别完全分开，训练多久系数就增长多久，"
        "其大小没有意义：请使用 penalty L2。"
    ),
    WARNINGS["case"]: (
        "有些类别只在大小写上不同，被当作不同的类别；各医院自己的页面列出了它们的名称：如果含义相同，请在视图中统一写法。"
    ),
    WARNINGS["one_hospital"]: (
        "有些类别只在一家医院出现；各医院自己的页面列出了它们的名称：请核对其他医院是否用了别的写法。"
    ),
    "Fold {n}": "第 {n} 折",
    "Round": "轮次",
    "Rows": "行数",
    "seconds": "秒",
    "all": "全体",
    "Rows and metrics of the newest round": "各医院行数和最新一轮的指标",
    "Metrics of single hospitals are withheld: one of them has fewer rows of a class than"
    " its policy's min_rows asks for. Those of all hospitals together are shown.": (
        "未显示各医院自身的指标：其中一家医院某个类别的行数少于其策略 min_rows 的要求。所有医院合计的指标照常显示。"
    ),
    "This order is trained without scores: its model has fewer coefficients than a"
    " hospital's min_scored_coefficients asks for.": (
        "本任务不产生评分：模型系数少于某医院 min_scored_coefficients 的要求。"
    ),
    "A chosen metric of each hospital by round": "各医院所选指标随轮次的变化",
    "Seconds that each round took": "每轮用时（秒）",
    "Waiting for {names}.": "正在等待：{names}。",
    "Protection": "保护方式",
    "Timeline": "时间线",
    "Sent by {name}": "由 {name} 发起",
    "Rows counted by {names}": "已统计行数：{names}",
    "Parts of": "显示",
    "Round {n}": "第 {n} 轮",
    "Final metrics": "最终指标",
    "Before and after the rounds": "各轮之前和之后",
    "The whole order": "整个任务",
    "Which part ran where and when": "各步骤在何处、何时运行",
    "Prefect has recorded no part of it yet.": "Prefect 尚未记录任何步骤。",
    "coordinator": "协调方",
    "local gradient": "本地梯度",
    "scoring": "评分",
    "encryption": "加密",
    "aggregation": "聚合",
    "final metrics": "最终指标",
    "verify order": "核验任务",
    "approval": "人工审批",
    "acceptances": "等待接受",
    "data SQL extraction": "SQL 取数",
    "data extraction": "取数",
    "key agreement": "密钥协商",
    "model columns": "确定模型列",
    "standardization": "标准化",
    "types": "类型",
    "matching": "匹配",
    "cells": "比较分组",
    "dealing": "分发随机三元组",
    "joint answer": "联合计算",
    "save model": "保存模型",
    "models saved": "模型已保存",
    "results": "结果",
    "inference": "预测",
    "First round": "第一轮",
    "Newest round: {n}": "最新一轮：{n}",
    "Ended: {state}": "结束：{state}",
    "The run in Prefect": "在 Prefect 中查看",
    "opens on the coordinator's machine, elsewhere through its operator's ssh tunnel only": "在协调方的机器上可以打开；"
    "在别处只能通过其运维人员的 ssh 隧道打开",
    "Prefect keeps the runs of the newest orders; this order's were deleted on {when}.": "Prefect 只保留最新任务的"
    "运行记录；此任务的记录已于 {when} 删除。",
    "Runs order {n} again": "重新运行任务 {n}",
    "Scores of this order": "此任务的评分",
    "Cancel": "取消任务",
    "Run again": "重新运行",
    "Cancel order {n} for all hospitals?": "要为所有医院取消任务 {n} 吗？",
    "The values are with the receivers alone, in their results folders: {path}. Their people read them "
    "with ./run agent results show {order_id}.": "结果只在接收方的结果文件夹中：{path}。接收方人员用 "
    "./run agent results show {order_id} 查看。",
    # Protection
    "No row leaves its hospital.": "任何数据行都不离开医院。",
    "Each hospital encrypts what it has computed and adds random numbers that cancel out only in the sum of all.": (
        "各医院对计算结果加密，并加上随机数；这些随机数只有在全体求和时才相互抵消。"
    ),
    "The coordinator adds up what it cannot open. Only the sum can be opened, by {holder} ({bits} bit key).": (
        "协调方只能相加而无法解密。只有总和可以由 {holder} 解密（{bits} 位密钥）。"
    ),
    "Nobody can see one hospital's contribution: not the coordinator, not {holder}.": (
        "任何人都看不到单个医院的贡献：协调方不能，{holder} 也不能。"
    ),
    "Each hospital adds random numbers to what it has computed; they cancel out only in the sum of all.": (
        "各医院在计算结果上加随机数；这些随机数只有在全体求和时才相互抵消。"
    ),
    "Nobody can see one hospital's contribution, and the coordinator can open nothing.": (
        "任何人都看不到单个医院的贡献，协调方无法解密任何内容。"
    ),
    "Nothing else is hidden: the coordinator sees what each hospital has computed, and the model.": (
        "除此之外没有隐藏：协调方能看到各医院的计算结果和模型。"
    ),
    "Every hospital's policy must allow this.": "每家医院的策略都必须允许这样做。",
    "Each hospital adds random numbers to its totals; they cancel out only in the total of all.": (
        "各医院在其合计上加随机数；这些随机数只有在全体合计中才相互抵消。"
    ),
    "Only the receivers can open the result: {receivers}. The coordinator can open nothing.": (
        "只有接收方能打开结果：{receivers}。协调方无法打开任何内容。"
    ),
    "Each hospital adds random numbers to its counts of rows; they cancel out only in the counts of all.": (
        "各医院在其行数上加随机数；这些随机数只有在全体合计中才相互抵消。"
    ),
    "The receivers can open these, and every hospital that provides rows: so each checks what it is asked.": (
        "接收方和每家提供数据的医院都能打开这些合计：各医院因此能核对对自己的提问。"
    ),
    "Of two hospitals that provide rows, each learns the other's counts. The coordinator can open nothing.": (
        "若只有两家医院提供数据，各方会得知对方的行数。协调方无法打开任何内容。"
    ),
    "Each value is split into random parts, one for each hospital; a part alone says nothing.": (
        "每个数值拆成随机的几份，每家医院一份；单独一份不含任何信息。"
    ),
    "Only the receivers can open the result: {receivers}.": "只有接收方能打开结果：{receivers}。",
    "The coordinator learns how many persons each hospital has and how many are common, not who they are.": (
        "协调方知道各医院的人数和共同人数，但不知道是谁。"
    ),
    "Nothing is encrypted: gradients are kept as they were recorded.": "没有加密：梯度按记录原样保存。",
    "The predictions are sealed for the one who asked; nobody else can open them.": (
        "预测结果只有请求者可以解密，其他人无法打开。"
    ),
    "For the scores the coordinator learns lengths and angles of the gradients of one round.": (
        "为了评分，协调方知道同一轮内各梯度的长度和夹角。"
    ),
    "For the scores the coordinator learns lengths and angles, also from one round to the next.": (
        "为了评分，协调方知道长度和夹角，以及与上一轮之间的变化。"
    ),
    "{n} group(s) withheld: fewer than {threshold} rows at a hospital, so few that persons could be told.": (
        "{n} 个分组未给出：某医院的行数少于 {threshold}，可能识别出个人。"
    ),
    "{n} group(s) withheld: fewer than {threshold} rows of a hospital have a pair of values.": (
        "{n} 个分组未给出：某医院中某一对取值的行数少于 {threshold}。"
    ),
    "{n} group(s) withheld: one or two persons make more than {threshold} of a hospital's total.": (
        "{n} 个分组未给出：一两个人占某医院合计的 {threshold} 以上。"
    ),
    "{n} group(s) withheld: fewer than {threshold} hospitals have rows in them.": (
        "{n} 个分组未给出：有数据的医院少于 {threshold} 家。"
    ),
    "{n} group(s) withheld: of all hospitals fewer than {threshold} rows, too few have any, or few changed.": (
        "{n} 个分组未给出：各医院合计少于 {threshold} 行，有此类行的医院过少，或自以前的结果以来只有少数变动。"
    ),
    "{n} more group(s) withheld: with them, a withheld one could be computed from the rest.": (
        "另有 {n} 个分组未给出：否则可由其余分组推算出未给出的分组。"
    ),
    "{n} group(s) withheld by the rule {rule} (threshold {threshold}).": (
        "{n} 个分组按规则 {rule} 未给出（阈值 {threshold}）。"
    ),
    # Forms
    "as the default": "默认",
    "Model": "模型",
    "Rounds at the most": "最多轮数",
    "Learning rate": "学习率",
    "Decay of the rate": "学习率衰减",
    "Rows of a mini-batch (-1: all)": "小批量行数（-1：全部）",
    "Penalty": "正则项",
    "Weight of the penalty": "正则系数",
    "Family (glm)": "分布族（glm）",
    "Link (glm)": "连接函数（glm）",
    "Dispersion (glm)": "离散参数（glm）",
    "Standardise the columns": "对各列做标准化",
    "Ends when the loss changes by less than": "损失变化小于此值时结束（eps）",
    "Optimizer": "优化器",
    "Key length (Paillier)": "密钥长度（Paillier）",
    "Aggregation": "聚合方式",
    "Column of the patient's number": "患者编号列",
    "Feature columns, with commas between": "特征列（用逗号分隔）",
    "Column of the label": "标签列",
    "Column of the event (cox)": "事件列（cox）",
    "Leave out rows without a value in (columns)": "排除这些列缺少数值的行",
    "Missing values": "缺失值",
    "Of {selected} rows selected, {left_out} were left out and {used} used": (
        "选出 {selected} 行，排除 {left_out} 行，使用 {used} 行"
    ),
    "Categories: a line each, column = reference level": "分类列：每行一个，列 = 参照水平",
    "Columns whose rare values are one level: a line each": "将少见取值并为一类的列：每行一个",
    "Derived columns: a line each, name = expression": "派生列：每行一个，名称 = 表达式",
    "Purpose (stands in every hospital's ledger)": "用途（记入各医院台账）",
    "Hospitals and their rows": "医院及其数据",
    "SELECT for {name}": "{name} 的 SELECT",
    "Orders are made by hospitals: sign in with the token of a hospital's user.": (
        "任务由医院发起：请用医院用户的令牌登录。"
    ),
    "Questions are asked by hospitals: sign in with the token of a hospital's user.": (
        "统计由医院发起：请用医院用户的令牌登录。"
    ),
    "The body as JSON: every field of the API": "JSON 正文：API 的全部字段",
    "This is not a JSON object.": "这不是 JSON 对象。",
    "The same with curl": "等价的 curl 命令",
    "Check": "检查",
    "Send": "发送",
    "Nothing is wrong with it. The hospitals check it again.": "检查通过。各医院还会再次检查。",
    "Sent. Waiting for the hospitals' first answer ...": "已发送，正在等待医院的首次答复……",
    # Scores
    "Scores": "评分",
    "Score": "评分",
    "Layers": "层",
    "all layers": "所有层",
    "Client": "客户端",
    "Round side by side": "并列显示的轮次",
    "100 rounds that end with": "截至此轮的 100 轮",
    "{score} of each client by round": "各客户端各轮的 {score}",
    "All scores of round {n}": "第 {n} 轮的全部评分",
    "Score, and its rank; 1 is the most anomalous": "评分及名次；1 为最异常",
    "from the lowest (0) to the highest (1)": "从最低（0）到最高（1）",
    "Without a score:": "没有评分的轮次：",
    "sees:": "能看到：",
    "Does not see:": "看不到：",
    "A score says how one hospital's gradient lies among the others'. It is no verdict: a hospital with rare patients "
    "is unlike the others. Look at several rounds and several scores.": (
        "评分说明一家医院的梯度在其他医院中的位置，并不是结论：患者特殊的医院本来就与众不同。请看多轮、多种评分。"
    ),
    "Who is far from its k nearest.": "离最近的 k 个邻居很远者。",
    "k + 1 attackers who agree: to each other they are near. k must be larger than their number.": (
        "k + 1 个串通的攻击者：他们彼此很近。k 必须大于攻击者人数。"
    ),
    "Who points in another direction than its k nearest.": "方向与最近的 k 个邻居不同者。",
    "Length: who sends ten times its gradient looks honest. And k + 1 attackers who agree.": (
        "长度：发送十倍梯度者看起来诚实；以及 k + 1 个串通的攻击者。"
    ),
    "Whose loss fell little while its gradient changed much since the round before.": (
        "损失下降很少而梯度较上一轮变化很大者。"
    ),
    "Direction, and an attack that goes on as before. Losses are those that hospitals report.": (
        "方向，以及一成不变的持续攻击。损失由医院自行报告。"
    ),
    "Who is far from the middle of the group it is counted to.": "离所属分组中心很远者。",
    "Attackers who get a group of their own: a low score is no sign of health. k = 1 has no such blind spot.": (
        "自成一组的攻击者：低分并不代表正常。k = 1 没有这个盲点。"
    ),
    "Who is not in the majority: 0 within, 1 outside.": "不在多数派中者：0 在内，1 在外。",
    "Attackers, where p of all is more than there are honest ones.": "当 p 的比例超过诚实者数量时的攻击者。",
    "Who is not described by the directions in which most differ.": "不能用主要差异方向描述者。",
    "A strong attacker: the directions then point at it. A low score is no sign of health.": (
        "强攻击者：主方向会指向它。低分并不代表正常。"
    ),
    "Who is far from its neighbours; with a proof, for few enough attackers.": "离邻居很远者；攻击者足够少时有证明。",
    "Attackers who keep their length, where honest hospitals have very different rows.": (
        "诚实医院数据差异很大时，保持长度不变的攻击者。"
    ),
    "Whom the aggregation multi_krum would leave out: 1, others 0.": "multi_krum 聚合会排除者为 1，其他为 0。",
    "The same as true_krum; where rows differ it leaves out honest hospitals too.": (
        "与 true_krum 相同；数据差异大时也会排除诚实医院。"
    ),
    "Who is far from a middle that fewer than half cannot move.": "离中位点很远者，不足半数者无法移动该点。",
    "Who points the same way as another: the same attacker under several names.": (
        "与他人方向相同者：同一攻击者的多个身份。"
    ),
    "Everything else; and honest hospitals that agree very well look the same.": (
        "其他一切；非常一致的诚实医院看起来也一样。"
    ),
    "How far a hospital pulls away from where the model was going.": "医院偏离模型原方向的程度。",
    "Whether that is good: an attacker who sends a large vector contributes most.": (
        "这是好是坏：发送大向量的攻击者贡献最大。"
    ),
    "How much worse the model is without the hospital; below 0 it is better without.": (
        "没有该医院时模型变差多少；小于 0 表示没有它更好。"
    ),
    "What test rows do not show. In sealed orders each hospital measures it itself.": (
        "测试数据未体现的内容。在加密任务中由各医院自行测量。"
    ),
    # Joint statistics
    "Joint statistics": "联合统计",
    "The values of an answer are not here: they are with the receivers alone, each in its own results folder, and its "
    "people read them with ./run agent results. Here is what was asked, what became of it, and where the values are.": (
        "结果数值不在这里：只在各接收方自己的结果文件夹中，由其人员用 ./run agent results 查看。"
        "这里显示问了什么、结果如何、数值在哪里。"
    ),
    "Ask a question": "提出统计问题",
    "Runs": "运行记录",
    "All runs": "全部记录",
    "Runs of schedule {n}": "计划 {n} 的运行记录",
    "Nothing was asked yet.": "还没有提出过问题。",
    "Rows used": "使用行数",
    "Where the values are": "数值位置",
    "Schedule": "计划",
    "Schedules": "计划",
    "What happened": "说明",
    "Repeats order {n}": "沿用任务 {n} 的结果",
    "There is no schedule.": "没有计划。",
    "Question": "问题",
    "Next time": "下次时间",
    "every {n} seconds": "每 {n} 秒",
    "what became of each time": "每次的结果",
    "Pause": "暂停",
    "Resume": "恢复",
    "Delete": "删除",
    "Delete schedule {n}? Its orders stay.": "要删除计划 {n} 吗？其任务会保留。",
    "Name of the result": "结果名称",
    "For each group of (columns)": "分组列",
    "Column of the event (1 or 0)": "事件列（1 或 0）",
    "The columns: two, or up to 50 of a matrix": "列：两列，或矩阵的至多 50 列",
    "Quantiles, from 0 to 1": "分位数（0 到 1）",
    "Edges of the bins": "分箱边界",
    "Threshold": "阈值",
    "Comparison": "比较",
    "Expression, such as df1.price * df2.units": "表达式，如 df1.price * df2.units",
    "brings rows": "提供数据",
    "gets the result": "接收结果",
    "File, schema.table or SELECT": "文件、schema.table 或 SELECT",
    "Column (joined rows: the person's number)": "列（按人连接时：人员编号）",
    "Column added up": "求和列",
    "Again and again": "定期运行",
    "Leave this empty to ask once. Minute, hour, day of the month, month, day of the week.": (
        "留空则只运行一次。分、时、日、月、星期。"
    ),
    "Cron, such as 0 6 * * 1-5": "Cron，如 0 6 * * 1-5",
    "Time zone, such as Asia/Shanghai": "时区，如 Asia/Shanghai",
}


def translated(text: str, language: str) -> str:
    """The text in a language; English, where there is no other."""
    return CHINESE.get(text, text) if language == "zh" else text
