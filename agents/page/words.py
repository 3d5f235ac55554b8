"""What the page says, in English and Chinese.

Words of cells are named by their column: `event.asked`, `kind.mean`.
"""

from __future__ import annotations

from analytics.training.outcome import WARNINGS

LANGUAGES = {"en": "English", "zh": "中文"}

# In the order of LANGUAGES.
_WORDS: dict[str, tuple[str, str]] = {
    "title": ("Consilium at {name}", "{name} 的 Consilium"),
    "local": (
        "Seen on this machine only. Nothing of it leaves.",
        "仅在本机可见，内容不会离开本机。",
    ),
    "skip": ("To the content", "跳到正文"),
    "menu": ("Pages", "页面"),
    "language": ("Language", "语言"),
    "page.overview": ("Overview", "概览"),
    "page.asked": ("Asked", "收到的请求"),
    "page.refused": ("Refused", "已拒绝"),
    "page.left": ("What left", "离开的内容"),
    "page.models": ("Models", "模型"),
    "page.results": ("Results", "结果"),
    "page.rounds": ("Rounds of training", "训练轮数"),
    "disk.full": (
        "The disk is full. Make room below {folder}: orders wait for it, and go on by themselves.",
        "磁盘已满。请在 {folder} 下腾出空间：任务正在等待，之后会自动继续。",
    ),
    "lag.within.agent": (
        "This agent speaks protocol {own}, the coordinator {theirs}: orders run, in the older one. Your IT upgrades it:"
        " {command}",
        "本院代理程序的协议号为 {own}，协调方为 {theirs}：任务照常运行，采用较旧的协议。请信息科升级：{command}",
    ),
    "lag.outside.agent": (
        "This agent speaks protocol {own}, the coordinator {theirs}: every order is refused. Your IT upgrades it:"
        " {command}",
        "本院代理程序的协议号为 {own}，协调方为 {theirs}：所有任务都会被拒绝。请信息科升级代理程序：{command}",
    ),
    "lag.within.coordinator": (
        "The coordinator speaks protocol {theirs}, this agent {own}: its operator upgrades it.",
        "协调方的协议号为 {theirs}，本院代理程序为 {own}：请协调方管理员升级。",
    ),
    "lag.outside.coordinator": (
        "The coordinator speaks protocol {theirs}, this agent {own}: every order is refused until its operator upgrades"
        " it.",
        "协调方的协议号为 {theirs}，本院代理程序为 {own}：在协调方管理员升级之前，所有任务都会被拒绝。",
    ),
    "evaluation.list": ("Evaluations of models on new rows", "模型在新数据上的评估"),
    "evaluation.one": ("Evaluation {number}", "评估 {number}"),
    "evaluation.title": (
        "Evaluation {number} of model {model}",
        "评估 {number}：模型 {model}",
    ),
    "evaluation.intro": (
        "Over the new rows of all its hospitals together. Each step of a curve has rows enough of each class.",
        "基于各医院全部新数据。曲线的每一步都有足够的各类行数。",
    ),
    "picture.roc": ("ROC curve", "ROC 曲线"),
    "picture.calibration": ("Calibration", "校准曲线"),
    "picture.survival": ("Survival by group", "各组生存曲线"),
    "picture.histogram": ("Histogram", "直方图"),
    "picture.at_risk": ("At risk", "在险人数"),
    "note.method": ("Method", "方法"),
    "note.expression": ("Expression", "表达式"),
    "note.providers": ("Hospitals with rows", "提供数据的医院"),
    "note.receivers": ("Receivers", "接收方"),
    "note.rows": ("Rows of each hospital", "各医院行数"),
    "note.withheld": ("Withheld, and why", "未给出的内容及原因"),
    "note.opened": ("Opened", "已公开"),
    "note.notes": ("Remarks", "备注"),
    "results.table_one": ("As a paper's first table", "论文的表一"),
    "results.all": ("All rows of the answer", "答案的全部行"),
    "waiting": ("Waiting for a person here", "等待本院人员决定"),
    "waiting.none": ("No order waits for a decision.", "没有等待决定的任务。"),
    "waiting.order": ("Order {number}", "任务 {number}"),
    "waiting.since": ("since {at}", "自 {at} 起"),
    "waiting.look": ("Read and decide", "查看并决定"),
    "decide.intro": (
        "Signature and policy have been checked, and no row has been read. It waits until somebody here decides.",
        "签名与策略已核对，尚未读取任何行。在有人决定之前不会发生任何事。",
    ),
    "decide.reason": (
        "Reason (the other hospitals and the coordinator read it if you refuse; no patient's name)",
        "理由（拒绝时其他医院和协调方会看到；请勿写患者姓名）",
    ),
    "decide.approve": ("Approve", "批准"),
    "decide.refuse": (
        "Refuse, and end the order for all",
        "拒绝，并为所有方终止该任务",
    ),
    "decide.signed": (
        "The decision is signed with this hospital's key and written into the ledger in the name of {person}.",
        "该决定将以本院密钥签名，并以 {person} 的名义写入台账。",
    ),
    "chain.whole": (
        "The ledger's chain is whole. Its head is {head}",
        "台账的链完整。链首为 {head}",
    ),
    "chain.broken": (
        "The ledger's chain is BROKEN at line {line}: that line or the one before was altered.",
        "台账的链在第 {line} 行处断裂：该行或前一行被改动。",
    ),
    "picture": ("What left, by day and kind", "按日期与种类统计的离开内容"),
    "picture.none": ("Nothing has left yet.", "尚无内容离开。"),
    "picture.scale": (
        "A bar is what left on one day (UTC), a step higher for ten times as many bytes. Tables have the numbers.",
        "每个柱表示一天（UTC）内离开的字节数；字节数每增加十倍，柱高一级。具体数字见表格。",
    ),
    "picture.bar": (
        "{day}, {kind}: {messages} messages, {size}",
        "{day}，{kind}：{messages} 条消息，{size}",
    ),
    "picture.detail": ("Every message by itself", "逐条消息"),
    "table.latest": ("The latest {shown} of {all}.", "最近 {shown} 条，共 {all} 条。"),
    "table.all": ("{all} in all.", "共 {all} 条。"),
    "table.none": ("None yet.", "暂无。"),
    "table.csv": ("All as CSV", "下载全部 CSV"),
    "table.order": ("Order or model", "任务或模型"),
    "table.filter": ("Show", "显示"),
    "models.export": ("Export as {format}", "导出为 {format}"),
    "models.intro": (
        "Models stay in the vault. An export is written into the ledger; who has the file has the model.",
        "模型保存在保险库中。每次导出都会记入台账；得到文件者即得到模型。",
    ),
    "models.report": ("Report", "报告"),
    "report.title": ("Report of model {number}", "模型 {number} 的报告"),
    "report.intro": (
        "Estimates over all hospitals' rows together, for this hospital's own people. An export is written into the"
        " ledger.",
        "基于所有医院全部行的估计值，仅供本院人员使用。导出文件会记入台账。",
    ),
    "report.not_converged": (
        "Training has not converged: these numbers are none to print.",
        "训练未收敛：这些数字不可发表。",
    ),
    "report.picture": ("Estimates with their intervals", "估计值及其区间"),
    "report.table": ("Terms", "各项"),
    "results.intro": (
        "What this hospital received of joint statistics. For its own people.",
        "本院收到的联合统计结果，仅供本院人员使用。",
    ),
    "rounds.intro": (
        "How many rounds each receiver has had of a table in {days} days, and has left (max_rounds in policy.toml).",
        "各接收方在 {days} 天内对每个表已用及剩余的训练轮数（policy.toml 中的 max_rounds）。",
    ),
    "results.view": ("View", "查看"),
    "results.file": ("Download", "下载"),
    "results.notes": ("Notes", "说明"),
    "results.first": (
        "The first {shown} of {all} rows.",
        "前 {shown} 行，共 {all} 行。",
    ),
    "error.link": (
        "Open the link that `./run agent show` printed. It opens the page once, in one browser.",
        "请打开 `./run agent show` 打印的链接。该链接仅可在一个浏览器中使用一次。",
    ),
    "error.spent": (
        "This link is not valid, or was used. End `./run agent show` with Ctrl-C and start it again for a new one.",
        "此链接无效或已被使用。请用 Ctrl-C 结束 `./run agent show` 后重新启动以获取新链接。",
    ),
    "error.form": (
        "This form is not one of this page's own. Go back, and try again.",
        "表单并非来自本页面。请返回重试。",
    ),
    "error.changed": (
        "The order is not the one that was shown. Look again.",
        "该任务与所显示的不同，请重新查看。",
    ),
    "error.address": ("This page is not here.", "没有此页面。"),
    "error.input": (
        "The request is not in the form that this page sends.",
        "请求格式不正确。",
    ),
    "error.unplanned": (
        "An unplanned error. The terminal says where.",
        "意外错误，详情见终端。",
    ),
    "error.title": ("Not shown", "无法显示"),
    "back": ("Overview", "返回概览"),
    # Columns
    "column.at": ("When", "时间"),
    "column.order": ("Order or model", "任务或模型"),
    "column.event": ("What happened", "事件"),
    "column.what": ("What", "内容"),
    "column.who": ("Who", "人员或医院"),
    "column.purpose": ("Purpose or reason", "目的或理由"),
    "column.rule": ("Rule", "规则"),
    "column.sentence": ("Why", "原因"),
    "column.table": ("Table", "表"),
    "column.n_rounds": ("Rounds", "轮数"),
    "column.n_left": ("Left", "剩余"),
    "column.kind": ("Kind", "种类"),
    "column.to": ("To", "接收方"),
    "column.bytes": ("Bytes", "字节"),
    "column.sha256": ("SHA-256", "SHA-256"),
    "column.day": ("Day", "日期"),
    "column.messages": ("Messages", "消息数"),
    "column.model_type": ("Type", "类型"),
    "column.n_attributes": ("Attributes", "特征数"),
    "column.attributes": ("Their names", "特征名"),
    "column.stopped_by": ("Training ended", "训练结束方式"),
    "column.warnings": ("Warnings", "警告"),
    "column.method": ("Method", "方法"),
    "column.file": ("File", "文件"),
    "column.n_rows": ("Rows", "行数"),
    "column.export": ("Export", "导出"),
    "column.open": ("Open", "打开"),
    # Cells
    "event.opens": ("totals that will be opened", "将被公开的合计"),
    "event.asked": ("waits for a person", "等待人员决定"),
    "event.decided": ("decided", "已决定"),
    "event.answered": ("answered", "已响应"),
    "event.rows": ("rows selected, left out and used", "选出、排除与使用的行数"),
    "event.strata": ("strata counted", "已统计分层"),
    "event.rounded": ("digits rounded", "数字有舍入"),
    "event.late": ("began without this hospital", "未等本院即已开始"),
    "event.finished": ("finished", "已完成"),
    "event.inferred": ("model applied here", "在本院应用模型"),
    "event.exported": ("model exported", "导出模型"),
    "event.readers": ("list of readers changed", "读者名单已更改"),
    "event.forgotten": ("earlier answers forgotten", "忘记已给出的答案"),
    "event.cohort_made": ("cohort made", "队列已生成"),
    "event.cohort_kept": ("cohort not made anew", "队列未能重新生成"),
    "what.training": ("training", "训练"),
    "what.evaluation": ("evaluation", "评估"),
    "what.inference": ("inference", "预测"),
    "what.statistics": ("joint statistics", "联合统计"),
    "what.approved": ("approved", "已批准"),
    "what.refused": ("refused", "已拒绝"),
    "stopped_by.converged": ("it had converged", "已收敛"),
    "stopped_by.max_iter": ("by max_iter", "达到 max_iter"),
    # A model's warnings stand in the vault as sentences.
    f"warning.{WARNINGS['max_iter']}": (
        WARNINGS["max_iter"],
        "训练因达到 max_iter 而结束，尚未收敛，模型可能没有训练完成。"
        "无正则项的 lr 或 softmax 若增大 max_iter 仍不结束，可能有属性在部分数据中把某一类别分开，其系数会不断增长。",
    ),
    f"warning.{WARNINGS['constant']}": (
        WARNINGS["constant"],
        "最终损失不低于对所有数据给出同一答案的常数模型，此模型没有用处。",
    ),
    f"warning.{WARNINGS['separated']}": (
        WARNINGS["separated"],
        "属性把类别完全分开，且没有正则项：系数的大小取决于训练何时结束，没有意义。",
    ),
    # Those that a model keeps name the classes; these are for the order's answer.
    f"warning.{WARNINGS['case']}": (
        WARNINGS["case"],
        "有些类别只在大小写上不同，被当作不同的类别。",
    ),
    f"warning.{WARNINGS['one_hospital']}": (
        WARNINGS["one_hospital"],
        "有些类别只在一家医院出现。",
    ),
    "to.everyone": ("all its hospitals", "任务各方"),
    "to.coordinator": ("coordinator", "协调方"),
    # What an order says
    "term.kind": ("Kind of order", "任务种类"),
    "term.initiator": ("Ordered by", "发起方"),
    "term.parties": ("Hospitals that take part", "参与医院"),
    "term.receivers": ("Hospitals that receive", "接收医院"),
    "term.providers": ("Hospitals that provide data", "数据提供医院"),
    "term.openers": ("Hospitals that open the joint counts", "可打开联合计数的医院"),
    "term.purpose": ("Purpose", "目的"),
    "term.columns": ("Columns that are used", "使用的列"),
    "term.method": ("Method", "方法"),
    "term.scoring": ("Scoring", "评分"),
    "term.data: train": ("SQL that is run here, for training", "在本院执行的训练 SQL"),
    "term.data: evaluate": (
        "SQL that is run here, for evaluating a model",
        "在本院执行的评估 SQL",
    ),
    "term.data: test": ("SQL that is run here, for testing", "在本院执行的测试 SQL"),
    "term.data: infer": ("SQL that is run here", "在本院执行的 SQL"),
    "term.data: data": (
        "File, table or SQL that is read here",
        "在本院读取的文件、表或 SQL",
    ),
    "term.expression": ("Expression", "表达式"),
    "term.model_type": ("Model type", "模型类型"),
    "term.model_params": ("Model parameters", "模型参数"),
    "term.unique_id": ("Unique id", "唯一标识列"),
    "term.label_name": ("Label", "标签列"),
    "term.event_name": ("Event", "事件列"),
    "term.entry_name": ("Observed from", "进入观察的时间列"),
    "term.strata": ("Strata", "分层列"),
    "term.aggregation": ("Aggregation", "聚合方式"),
    "term.complete_on": ("Rows with a value in", "只用这些列有值的行"),
    "term.group_by": ("Grouped by", "分组列"),
    "term.threshold": ("Threshold", "阈值"),
    "term.comparison": ("Comparison", "比较"),
    "term.result_alias": ("Name of the result", "结果名称"),
    "term.result_type": ("Form of the result", "结果格式"),
    "term.disclose": ("Numbers pass through the coordinator", "数值经过协调方"),
    "term.reader": ("Sealed to the reader", "密封给读者"),
    "term.own_data": ("How this hospital's data are read", "本院数据的读取方式"),
    "term.model_id": ("Model", "模型"),
    "term.schedule_id": ("Schedule", "计划"),
    # Kinds of messages
    "kind.order": ("the signed order", "已签名的任务"),
    "kind.acceptance": ("your row count and a key", "本院行数与密钥"),
    "kind.party": ("who takes part", "参与医院名单"),
    "kind.kept_model": (
        "a model that was trained here, sealed to a hospital that did not train it",
        "在本院参与训练的模型，密封给一家未参与训练的医院",
    ),
    "kind.setup": (
        "key material, sealed to one hospital",
        "密钥材料，仅一家医院可解密",
    ),
    "kind.own_metrics": (
        "whether some class has few rows here, and what may be scored",
        "本院是否有某个类别行数过少，以及哪些系数可以评分",
    ),
    "kind.levels": (
        "which levels of categories you have min_rows rows of, sealed to the hospitals",
        "本院行数达到最小行数的类别水平，仅各医院可解密",
    ),
    "kind.other_levels": (
        "of which categories you have rows of other levels, sealed to the hospitals",
        "本院在哪些分类列中有其他水平的行，仅各医院可解密",
    ),
    "kind.design": (
        "your part of counts and sums for the model's columns, encrypted or masked",
        "本院对模型各列计数与总和的份额，已加密或掩码",
    ),
    "kind.opening-design": (
        "the opened counts and means of the model's columns, sealed to the hospitals",
        "模型各列的计数与均值，仅各医院可解密",
    ),
    "kind.flow": (
        "how many rows were left out, where none or enough were",
        "被排除的行数，仅在为零或足够多时给出",
    ),
    "kind.classes": (
        "which classes you have, sealed to the hospitals",
        "本院的类别，仅各医院可解密",
    ),
    "kind.weights": (
        "initial weights, sealed to the hospitals",
        "初始权重，仅各医院可解密",
    ),
    "kind.public_key": ("the order's public key", "任务公钥"),
    "kind.mean": (
        "your part of a sum, encrypted or masked",
        "本院在总和中的份额，已加密或掩码",
    ),
    "kind.variance": (
        "your part of a sum, encrypted or masked",
        "本院在总和中的份额，已加密或掩码",
    ),
    "kind.gradient": (
        "your part of a sum, encrypted or masked; metrics",
        "本院在总和中的份额，已加密或掩码；及指标",
    ),
    "kind.vectors": (
        "your gradient in a frame that the coordinator does not know",
        "在协调方未知坐标系中的梯度",
    ),
    "kind.opening-mean": (
        "an opened sum, sealed to the hospitals",
        "已打开的总和，仅各医院可解密",
    ),
    "kind.opening-variance": (
        "an opened sum, sealed to the hospitals",
        "已打开的总和，仅各医院可解密",
    ),
    "kind.opening-gradient": (
        "an opened sum, sealed to the hospitals",
        "已打开的总和，仅各医院可解密",
    ),
    "kind.pooled": ("pooled AUC and KS", "合并 AUC 与 KS"),
    "kind.done": ("an empty word: the model is in the vault", "空消息：模型已入保险库"),
    "kind.answer": (
        "an answer, sealed to a reader whom your policy lists",
        "密封给本院策略所登记读者的答案",
    ),
    "kind.predictions": (
        "predictions, sealed to who asked",
        "预测结果，仅请求者可解密",
    ),
    "kind.values": (
        "an answer's numbers, sealed to who asked",
        "结果数值，仅请求者可解密",
    ),
    "kind.statement": (
        "your groups and what you withhold, sealed to the hospitals",
        "本院分组与隐去部分，仅各医院可解密",
    ),
    "kind.unmask": (
        "the seed of a mask, sealed to who opens the sum",
        "掩码种子，仅可打开总和的医院可解密",
    ),
    "kind.addend": ("your part of a sum, masked", "本院在总和中的份额，已掩码"),
    "kind.pivots": (
        "between which numbers a quantile lies, sealed to the hospitals",
        "分位数所在区间，仅各医院可解密",
    ),
    "kind.tags": (
        "tags of keys that only hospitals can make",
        "键的标签，仅医院可生成",
    ),
    "kind.matched": (
        "a digest of the common keys, sealed to the hospitals",
        "共同键的摘要，仅各医院可解密",
    ),
    "kind.cell_tags": (
        "tags of the groups that you have rows of",
        "本院有数据行的各分组的标签",
    ),
    "kind.cell_digest": (
        "that you know the same groups as the others",
        "确认本院与其他医院所见的分组相同",
    ),
    "kind.compared": (
        "how many columns and pairs of columns are compared over all hospitals",
        "在所有医院之间比较多少个列及其组合",
    ),
    "kind.own_sums": (
        "your own sum of each column, which the order's hospitals read",
        "您每一列自己的总和，任务的各医院可以读取",
    ),
    "kind.cell_share": (
        "your share of which groups, or features of 0 and 1, have enough rows",
        "本院关于哪些分组或 0/1 特征具有足够行数的份额",
    ),
    "kind.types": ("types and sizes of columns", "列的类型与大小"),
    "kind.opened": (
        "opened random numbers of a product, sealed to the hospitals",
        "乘法中打开的随机数，仅各医院可解密",
    ),
    "kind.share": (
        "a share of the result, sealed to a receiver",
        "结果的份额，仅接收医院可解密",
    ),
    "kind.keys": (
        "keys of the result's rows, sealed to a receiver",
        "结果行的键，仅接收医院可解密",
    ),
    "kind.report": ("that the result is written; its rows", "结果已写入及其行数"),
}


_CHINESE_FIGURES = {
    "term": "项",
    "estimate": "估计值",
    "se": "标准误",
    "statistic": "统计量",
    "p": "p 值",
    "low": "下限",
    "high": "上限",
    "odds_ratio": "比值比",
    "risk_ratio": "相对危险度",
    "rate_ratio": "率比",
    "hazard_ratio": "风险比",
    "ratio_of_means": "均值比",
    "confidence": "置信水平",
    "deviance": "偏差",
    "null_deviance": "零模型偏差",
    "df": "自由度",
    "df_residual": "残差自由度",
    "dispersion": "离散参数",
    "family": "分布族",
    "link": "连接函数",
    "log_likelihood": "对数似然",
    "hospitals": "医院数",
    "rounds": "轮数",
    "stopped_by": "结束方式",
    "inflation": "方差膨胀",
    "n": "行数",
    "n_left_out": "排除行数",
    "n_positive": "阳性行数",
    "n_negative": "阴性行数",
    "min_rows": "最少行数",
    "accuracy": "准确率",
    "log_loss": "对数损失",
    "brier": "Brier 评分",
    "sensitivity": "灵敏度",
    "specificity": "特异度",
    "ppv": "阳性预测值",
    "npv": "阴性预测值",
    "threshold": "阈值",
    "tp": "真阳性",
    "fp": "假阳性",
    "tn": "真阴性",
    "fn": "假阴性",
    "calibration": "校准",
    "predicted": "预测",
    "observed": "观察",
    "events": "事件数",
    "decision": "决策曲线",
    "net_benefit": "净获益",
    "treat_all": "全部治疗",
    "roc": "ROC 曲线",
    "time": "时间",
    "survival": "生存率",
}
"""Of a report by its name there, which stands beside it: files have that name alone."""


def figure_word(language: str, name: str) -> str:
    """What a number of a report is, with its name in files.

    >>> figure_word("zh", "odds_ratio_low"), figure_word("zh", "metrics.brier")
    ('比值比下限 odds_ratio_low', 'Brier 评分 brier')
    >>> figure_word("en", "metrics.brier"), figure_word("zh", "gvif")
    ('metrics.brier', 'gvif')
    """
    if language != "zh":
        return name
    inner = name.rpartition(".")[2]
    chinese = _CHINESE_FIGURES.get(inner)
    for ending in ("low", "high"):
        if chinese is None and inner.endswith(f"_{ending}"):
            of_ratio = _CHINESE_FIGURES.get(inner.removesuffix(f"_{ending}"))
            chinese = of_ratio and of_ratio + _CHINESE_FIGURES[ending]
    return f"{chinese} {inner}" if chinese else name


def say(language: str, text_name: str, /, **values: object) -> str:
    """The words of that name, with values in their places; KeyError for words that
    there are not.
    """
    text = _WORDS[text_name][_column_of(language)]
    return text.format(**values)


def word_of(language: str, group: str, text: str) -> str:
    """A cell's word where there is one, else the text as it is."""
    translations = _WORDS.get(f"{group}.{text}")
    return text if translations is None else translations[_column_of(language)]


def _column_of(language: str) -> int:
    return list(LANGUAGES).index(language)


def preferred(header: str) -> str:
    """The first of our languages in a browser's Accept-Language; English without one."""
    for language_range in header.split(","):
        tag, _, _ = language_range.partition(
            ";"
        )  # without its weight: browsers send the preferred one first
        language = tag.strip().lower()[:2]
        if language in LANGUAGES:
            return language
    return "en"
