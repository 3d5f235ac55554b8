"""The page's two languages: every text is written in English where it is used, and
stands here in Chinese.

Names that people also write in requests (methods, scores, metrics) and the API's own
sentences are the same in both.
"""

from __future__ import annotations

from analytics.training.outcome import WARNINGS
from api.pages.form_words import CHINESE_FORMS
from api.pages.view_words import CHINESE_VIEWS

LANGUAGES = ("en", "zh")

CHINESE: dict[str, str] = {
    **CHINESE_FORMS,
    **CHINESE_VIEWS,
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
    "The operator gives one to each hospital's users. ./run up prints those of its own federation.": (
        "令牌由管理员发给各医院用户；./run up 会打印其联邦的令牌。"
    ),
    "This token is not known or was revoked. Ask the operator for a new one.": (
        "令牌无效或已被撤销，请向管理员索取新令牌。"
    ),
    "There is no such page.": "没有这个页面。",
    "This session has ended. Sign in again.": "会话已结束，请重新登录。",
    "This token makes too many calls. Wait a second, then go on.": "此令牌调用过于频繁，请稍候再试。",
    "Sign in with your organisation's account": "使用本机构账号登录",
    "The identity provider does not answer. Try again later, or sign in with a token.": (
        "身份提供方没有应答。请稍后再试，或用令牌登录。"
    ),
    "Too many people sign in at this moment. Try again in a minute.": "此刻登录的人过多，请一分钟后再试。",
    "This sign-in was begun in another browser, was used, or is older than ten minutes. Begin again.": (
        "此次登录由另一浏览器发起、已被使用或超过十分钟，请重新开始。"
    ),
    "The identity provider's answer is not valid. Begin again; the operator's log says what is wrong.": (
        "身份提供方的应答无效。请重新开始；原因见管理员的日志。"
    ),
    "The identity provider has not signed you in.": "身份提供方未让您登录。",
    "Your account is in no group that this coordinator knows. Ask the operator.": (
        "您的账号不属于此协调方所知的任何组，请联系管理员。"
    ),
    "Your account is in groups of more than one hospital, or of the operator too. Ask the operator.": (
        "您的账号属于多家医院的组，或同时属于管理员的组，请联系管理员。"
    ),
    "Your account's group is of a hospital that is not registered here. Ask the operator.": (
        "您的账号所在组的医院未在此登记，请联系管理员。"
    ),
    "The coordinator cannot begin a session now. Try again later.": "协调方目前无法建立会话，请稍后再试。",
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
    "Protocol": "协议号",
    "{n} of {window}": "{n}（{window}）",
    "Written in protocol {n} or newer": "任务采用协议号 {n} 或更新",
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
    "none told": "未公布",
    "Cohorts": "队列",
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
    "May tell the hospitals of an order what its rows alone give": "允许任务的各医院得知仅由本院行得出的结果",
    "Of more than 64 hospitals masks with some of the others only": "医院超过 64 家时，只与其中一部分医院成对加掩码",
    "The same people compared once in {n} days": "同一批人在 {n} 天内只比较一次",
    "This order has many hospitals: each shows its whole work as one part, and the coordinator shows the rounds.": (
        "此任务的医院较多：每家医院将全部工作显示为一个步骤，各轮由协调方显示。"
    ),
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
    "New order": "新建任务",
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
    "log_loss": "对数损失 log_loss",
    "brier": "Brier 评分",
    "mean_deviance": "平均偏差",
    "calibration_slope": "校准斜率",
    "calibration_intercept": "校准截距",
    "calibration_in_the_large": "总体校准",
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
    "Began without {names}": "未等 {names} 即已开始",
    "Parts of": "显示",
    "Round {n}": "第 {n} 轮",
    "Final metrics": "最终指标",
    "Before and after the rounds": "各轮之前和之后",
    "The whole order": "整个任务",
    "Which part ran where and when": "各步骤在何处、何时运行",
    "Prefect has recorded no part of it yet.": "Prefect 尚未记录任何步骤。",
    "coordinator": "协调方",
    "whole order": "全部工作",
    "local training": "本地训练",
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
    "with ./run agent results show {order_id}.": (
        "结果只在接收方的结果文件夹中：{path}。接收方人员用 ./run agent results show {order_id} 查看。"
    ),
    "The answer is sealed to the reader {reader} too, and the coordinator has not read it. The reader's own client "
    "opens it: federation.order({n}) in a notebook, or python -m consilium_client open.": (
        "答案同时密封给读者 {reader}，协调方没有读过。由读者自己的客户端打开："
        "笔记本中用 federation.order({n})，或用 python -m consilium_client open。"
    ),
    "The estimates with their intervals are with each hospital of the order: on the hospital's own page "
    "under Models, or by ./run agent report --model {n}.": (
        "估计值及其区间在任务的各家医院：见医院自己页面的“模型”，或用 ./run agent report --model {n}。"
    ),
    "The model is with each hospital of the order: on the hospital's own page under Models, or by ./run "
    "agent export --model {n}.": (
        "模型在任务的各家医院：见医院自己页面的“模型”，或用 ./run agent export --model {n}。"
    ),
    "Curves and tables are with each hospital of the order: on the hospital's own page under Models, or "
    "by ./run agent report --evaluation {n}.": (
        "曲线和表格在任务的各家医院：见医院自己页面的“模型”，或用 ./run agent report --evaluation {n}。"
    ),
    "A study shows the coordinator no loss and no metrics by round: its estimates are at the hospitals "
    "alone.": "研究不向协调方显示各轮的损失和指标：其估计值只在各医院。",
    "What was asked: {what}.": "提问内容：{what}。",
    "{model} of {label} by {columns}": "{model}：{label}，列 {columns}",
    " and {n} more": " 等另外 {n} 列",
    "Opened: {what}.": "已公开：{what}。",
    "Round by round": "各轮情况",
    "Rows of each hospital": "各医院行数",
    "{n} of at most {most}": "{n}（最多 {most}）",
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
    "Only the receivers can open means and counts: {receivers}.": "只有接收方能打开均值与计数：{receivers}。",
    "Counts of rows below a value, which find the medians, every hospital that provides rows can open, too.": (
        "用于查找中位数的“低于某值的行数”，每家提供数据的医院也能打开。"
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
    "{n} group(s) withheld: with an earlier answer they would tell of fewer than {threshold} people.": (
        "{n} 个分组未给出：与以前的结果放在一起，会得知少于 {threshold} 人的情况。"
    ),
    "{n} more group(s) withheld: with them, a withheld one could be computed from the rest.": (
        "另有 {n} 个分组未给出：否则可由其余分组推算出未给出的分组。"
    ),
    "{n} group(s) withheld by the rule {rule} (threshold {threshold}).": (
        "{n} 个分组按规则 {rule} 未给出（阈值 {threshold}）。"
    ),
}


def translated(text: str, language: str) -> str:
    """The text in a language; English, where there is no other."""
    return CHINESE.get(text, text) if language == "zh" else text
