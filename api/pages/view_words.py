"""The texts of the pages of scores and of joint statistics in Chinese; `words` has those of
all other views.
"""

from __future__ import annotations

CHINESE_VIEWS: dict[str, str] = {
    # Scores
    "Scores": "评分",
    "Score": "评分",
    "Layers": "层",
    "all layers": "所有层",
    "Round side by side": "并列显示的轮次",
    "100 rounds that end with": "截至此轮的 100 轮",
    "{score} by hospital and round": "各医院各轮的{score}",
    "{n} of {of} rounds": "{of} 轮中的第 {n} 轮",
    "{name} is the most unlike in {n} of {of} scores.": "{name} 在 {of} 种评分中有 {n} 种与众不同之最。",
    "No hospital is by itself the most unlike in any score.": "在任何评分中都没有哪一家医院独自最与众不同。",
    "Scores that this round does not have:": "本轮没有的评分：",
    "Far from its nearest": "远离最近邻",
    "Another direction than its nearest": "方向与最近邻不同",
    "Much change, little gain": "变化大而收益小",
    "Far from its group": "远离所属组",
    "Outside the majority": "不在多数之内",
    "Off the common directions": "偏离共同方向",
    "Far from its neighbours": "远离邻居",
    "Would be left out": "会被排除",
    "Far from the middle": "远离中心",
    "Same direction as another": "与他人方向相同",
    "Contribution: pull on the model": "贡献：对模型的牵引",
    "Contribution: what its rows add": "贡献：其数据带来的提升",
    "k: how many nearest": "k：最近邻个数",
    "k: how many groups": "k：组数",
    "k: how many directions": "k：方向个数",
    "p: weight of the change": "p：变化的权重",
    "p: share of a majority": "p：多数所占比例",
    "n_attackers: how many are assumed": "n_attackers：假定的攻击者数",
    "No training has scores yet. They come with a training, round by round, where the policies of its hospitals let "
    "the coordinator learn lengths and angles of gradients (scoring round or full). Studies have none.": (
        "还没有带评分的训练。若各医院策略允许协调方得知梯度的长度和夹角（scoring 为 round 或 full），"
        "评分随训练逐轮产生。研究没有评分。"
    ),
    "This order has no scores: a study never has, nor has an order without scoring, and one that has just begun has "
    "none before its first round.": (
        "此任务没有评分：研究从不产生评分，不评分的任务也没有；刚开始的任务在第一轮之前也没有。"
    ),
    "In the picture each score goes from its lowest (0) to its highest (1): scores have no common unit.": (
        "图中每种评分从其最低值（0）到最高值（1）：各评分没有共同的单位。"
    ),
    "All scores of round {n}": "第 {n} 轮的全部评分",
    "Score, and its rank; 1 is the most anomalous": "评分及名次；1 为最异常",
    "Rounds without a score:": "没有评分的轮次：",
    "sees:": "能看到：",
    "Does not see:": "看不到：",
    "In each round of a training every hospital computes a gradient: the direction in which its rows pull the model. A "
    "score says how unlike the others one of them is. It is no verdict on a hospital: one with rare patients is unlike "
    "the others, too, and an attacker who knows a score can look like them. Look at several rounds and several "
    "scores.": (
        "训练的每一轮中，各医院计算一个梯度，即其数据把模型拉向的方向。评分说明其中一个与其他的差别有多大。"
        "评分不是对医院的结论：患者特殊的医院本来就与众不同，了解评分的攻击者也可能伪装得与他人相像。请看多轮、多种评分。"
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
    "A question is answered from the rows of all hospitals that bring some, and none of them shows a row. The values "
    "are with the receivers alone: in each one's results folder, which its people read on the hospital's own page "
    "under Results, or with ./run agent results. Here is what was asked and what became of it.": (
        "问题由所有提供数据的医院共同回答，任何医院都不展示数据行。结果数值只在接收方：在其结果文件夹中，"
        "由其人员在医院自己页面的“结果”中查看，或用 ./run agent results。这里显示问了什么、结果如何。"
    ),
    "Questions and answers": "问题与结果",
    "Nothing was asked yet. A mean, a first table, a test or survival curves over the rows of several hospitals begin "
    "with the button above.": (
        "还没有提出过问题。点击上方按钮，即可对多家医院的数据求均值、基线特征表、检验或生存曲线。"
    ),
    "There is no schedule. A question that is asked again and again is made by the same form.": (
        "没有计划。定期提出的问题用同一表单创建。"
    ),
    "Schedule {n}": "计划 {n}",
    "What is not in the answer, and why:": "结果中未给出的内容及原因：",
    "Under way": "进行中的步骤",
    "each day at {time}": "每天 {time}",
    "{days} at {time}": "每{days} {time}",
    "Sundays": "周日",
    "Mondays": "周一",
    "Tuesdays": "周二",
    "Wednesdays": "周三",
    "Thursdays": "周四",
    "Fridays": "周五",
    "Saturdays": "周六",
    "all {n}": "全部 {n} 种",
    "Ask a question": "提出统计问题",
    "Runs": "运行记录",
    "All runs": "全部记录",
    "Runs of schedule {n}": "计划 {n} 的运行记录",
    "Rows used": "使用行数",
    "Where the values are": "数值位置",
    "Schedules": "计划",
    "Repeats order {n}": "沿用任务 {n} 的结果",
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
    "The columns, with commas between (up to 50)": "列（用逗号分隔，至多 50 列）",
    "Median and quartiles of numbers, too": "并给出数值列的中位数与四分位数",
    "Quantiles, from 0 to 1": "分位数（0 到 1）",
    "Weights of event times": "事件时间的权重",
    "Edges of the bins, or times of the curve": "分箱边界，或曲线的时间点",
    "Threshold": "阈值",
    "Comparison": "比较",
    "Expression, such as df1.price * df2.units": "表达式，如 df1.price * df2.units",
    "brings rows": "提供数据",
    "gets the result": "接收结果",
    "File, schema.table or SELECT": "文件、schema.table 或 SELECT",
    "Column that is computed": "参与计算的列",
    "Column of the person's number": "人员编号列",
    "Column added up": "求和列",
    "Once, or again and again": "一次或定期运行",
    "Leave this empty to ask once. Minute, hour, day of the month, month, day of the week.": (
        "留空则只运行一次。分、时、日、月、星期。"
    ),
    "Cron, such as 0 6 * * 1-5": "Cron，如 0 6 * * 1-5",
    "Time zone, such as Asia/Shanghai": "时区，如 Asia/Shanghai",
}
