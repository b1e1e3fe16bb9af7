"""A text that stands where an answer should: an error message, a refusal, or a letter after all.

    replies.kind("Error code: 429 - {'error': …")  # failed
    replies.kind("抱歉，我无法回答这个问题。")       # refused

Endpoints and proxies send such texts as if they were answers, and files from elsewhere keep them as answers.

Notable choices
- Where a pattern stands decides, not that it is there: a letter may tell of a server that broke, and say 我无法. In a
  text that is not Chinese it has to open the text, or the text is short; in a Chinese one both.
- No length makes a text a letter: an error message has what it has, from six characters to a page of HTML.
- `gates` look for the same defects, in the whole of an answer.
"""

import re
from typing import Literal

Kind = Literal["ok", "refused", "failed"]
SHORT = 200
"""Characters below which a text is no whole letter."""

_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[a-z]", re.IGNORECASE)
_FEW_HAN = 20  # a text with fewer is no Chinese letter
_SHORT_HAN = 60  # an error message in Chinese, its apology and its advice have fewer
_LONGEST_REFUSAL = 600  # whoever writes more than this has answered
_LONGEST_CHINESE_REFUSAL = 400

# ---------------------------------------------------------------- errors

# What asks a reader to come back is a message; a letter that tells of a system that was busy does not go on like this.
_BUSY = (
    r"(?:(?:服务器?|系统|网络|网关|接口|模型|推理|请求|调用|连接|访问|后台|平台|api)"
    r"(?:内部|推理|调用|请求|连接|服务|访问|响应|生成){0,4}(?:当前|目前|暂时|现在|正|比较|过于|太|发生|出现|遇到){0,2}"
    r"(?:繁忙|忙碌|异常|错误|出错|故障|超时|失败|过载|频繁|不可用|报错)了?|(?:人数|访问量|请求量)(?:过多|过大|较大))"
)
_LATER = r"请?[你您]?(?:稍[后候]|重试|重新|再试|检查|联系|刷新|尝试)"
_FAULT = r"(?:error|exception)"
_ERROR = re.compile(
    rf"^[\W\d]*+(?:[\w.]*{_FAULT}(?:\s+[\w.]+)?\s*[:：(\[]|{_FAULT}(?:\W*$|\s+(?:code|\d|while|during|occurred|generating))"
    rf"|错误[:：]|{_BUSY}\W*$)"
    rf"|{_BUSY}(?=[，,；;。.!！\s]*(?:{_LATER}|错误码|[(（]?\d{{3}}\b)|\s*[:：])|显存不足"
    r"|error code: \d|traceback \(most|\bhttp(?: error)?/?[\d.]* [45]\d\d\b|status code:? [45]\d\d\b"
    r"|rate.?limit|\b429\W{1,3}too many|too many requests(?=\W*$|\W+(?:please|try|retry))"
    r"|(?:connection|timeout|api)\s?error(?! +[a-z])|remotedisconnected|max retries exceeded|https?connectionpool"
    r"|bad gateway|gateway time-?out|service (?:is )?(?:temporarily |currently )?unavailable|internal server error"
    r"|upstream (?:connect error|request timeout)|the server had an error|\ban error (?:has )?occurred"
    r"|something went wrong\W+(?:please )?(?:try|retry)|exceeded your current quota|insufficient_quota"
    r"|(?:server|model|engine|service)s? (?:is|are) (?:currently |temporarily )?overloaded|overloaded_error"
    r"|cuda (?:error|out of memory)|outofmemory|(?:incorrect|invalid) api key|(?:this model's )?maximum context length"
    r"""|^\W*\{\s*["'](?:(?:errors?|detail|errcode|errmsg|fault)["']\s*:|success["']\s*:\s*false"""
    r"""|(?:code|status|status_?code)["']\s*:\s*["']?(?:[1-9]\d\d|error|fail))"""
)
_RAW = re.compile(r'\s*(?:<(?:!doctype|html|head|body|\?xml)\b|\{\s*"(?:id|object|choices)"\s*:)')  # a page, a reply

# ---------------------------------------------------------------- refusals

# A warm letter says sorry too, and that its reader cannot sleep. A refusal is what the writer cannot do (我), or help
# that cannot be given. Far from the apology it has to be a verb of helping: 我无法想象 (I cannot imagine) is sympathy.
_SORRY = r"我?(?:很|非常|十分)?(?:抱歉|对不起|不好意思|遗憾)"
_WE = r"我(?:们|(?:作为|是)[^。你您]{1,12})?"
_CANNOT = r"(?:实在|真的|确实|恐怕|可能|暂时|目前|现在|也|还|都)*(?:无法|不能|没有?办法|没法|不便|没有?学会)"
_HELP = (
    r"(?:直接|继续|再)?(?:(?:就|对|为|给|向|与|和)[^，。]{1,8})?(?:提供|给出|给予|回答|回应|回复|解答|协助|帮助|帮忙|帮到"
    r"|满足|处理|讨论|谈论|评论|评价|判断|诊断|发表|参与|生成|写|完成|继续)"
)
_WHAT = (
    r"(?:(?:这|此|该|[你您]的)[个类种些]?(?:问题|请求|要求|内容|话题)"
    r"|(?:根据|按照|由于|出于|这?超出)[^。你您他她]{0,6}(?:政策|规定|规则|准则|安全|限制|原因|范围)[，,]?)?"
)
_HELLO = r"(?:[你您]好\W*)?(?:(?:这|此|该|[你您]的)[个类种些]?(?:问题|请求|要求|内容|话题)\W?)?"
_MODEL = r"(?:AI|人工智能|大?语言模型)(?: ?(?:大?语言)?(?:模型|助手|系统))?"
_AS_A_MODEL = re.compile(rf"作为(?:一?[个名款])? ?{_MODEL}", re.IGNORECASE)
_I_AM = r"I(?:['’]?m| am)"
# What a model will not do. I can't help but notice, or give you back those years, is said in letters.
_I_CANNOT_HELP = (
    r"\bI(?: can(?:no|['’])t| won['’]t| am (?:unable|not able) to|['’]m (?:unable|not able) to)\b(?: \w+ly)?"
    r"(?:\W*$| (?:help(?! but)|assist|answer (?:this|that|the|your)|discuss|respond|comply|fulfil|engage|participate"
    r"|process|generate|diagnose|continue (?:with|this|that)|do (?:that|this)|talk about"
    r"|(?:provide|offer|give)(?: you)?(?: with)?"
    r"(?: (?:the|any|this|that|a|an|kind|type|sort|of|professional|personal|medical|mental|psychological|specific))*"
    r" (?:help|support|advice|assistance|guidance|information|therapy|counsell?ing|health|service|response|answer)))"
)
_REFUSAL = re.compile(
    rf"\W*(?:{_SORRY}\W?(?:但是?|不过)?我{_CANNOT}(?!想象|体会|感|陪在|抱)|{_SORRY}[^。]{{0,30}}{_WE}{_CANNOT}{_HELP}"
    rf"|{_SORRY}\W?{_WHAT}{_CANNOT}{_HELP}"
    rf"|{_HELLO}我(?:暂时|目前|现在)?(?:无法|不能)(?:为你|为您|就此|就这个|提供|回答|协助|继续|满足)"
    rf"|(?:{_SORRY}\W?)?作为(?:一[个名款])? ?{_MODEL}(?:[，,。…]|我|无法|不能|$)"
    rf"|(?:[你您]好\W*)?我(?:只)?是一?[个名款]? ?{_MODEL}\W?我?{_CANNOT}"
    rf"|(?:{_I_AM} (?:so |very |really |truly )?)?sorry\b.{{0,120}}?{_I_CANNOT_HELP}"
    rf"|{_I_AM} sorry,? (?:but )?(?:this|that|your|the) (?:request|content|topic|question|conversation)\b"
    rf"|{_I_CANNOT_HELP}|As an AI(?: (?:language )?model| assistant| chatbot)?(?:, | )I\b)",
    re.IGNORECASE | re.DOTALL,
)


def kind(text: str) -> Kind:
    """refused or failed (an error message) for a text that only stands where an answer should; ok for every other."""
    han = len(_HAN.findall(text))
    chinese = han >= _FEW_HAN and 2 * han >= len(_LATIN.findall(text))
    if _REFUSAL.match(text) and len(text) < _longest_refusal(text, chinese):
        return "refused"
    lower = text.lower()
    if not chinese and _RAW.match(lower):
        return "failed"
    if (chinese and han >= _SHORT_HAN) or (error := _ERROR.search(lower)) is None:
        return "ok"
    before = lower[: error.start()]
    if chinese:
        opens = len(before) <= _FEW_HAN and not re.search("[你您他她“‘「\"']", before)
    else:
        opens = len(text) < SHORT or len(re.findall("[a-z]+", before)) <= 1
    return "failed" if opens else "ok"


def _longest_refusal(text: str, chinese: bool) -> int:
    if not chinese:
        return _LONGEST_REFUSAL
    return _LONGEST_CHINESE_REFUSAL if _AS_A_MODEL.search(text) else SHORT


DEFECTS: dict[str, tuple[tuple[str, ...], re.Pattern[str]]] = {
    "a refusal": (
        ("ai", "人工智能", "语言模型", "大模型", "抱歉", "对不起", "无法", "sorry", "can't", "cannot", "can not"),
        re.compile(
            r"作为一?[个名]?\s*(?:ai|人工智能|语言模型|大模型)|我(?:只)?是一?个?(?:ai|人工智能|语言模型)"
            r"|(?:抱歉|对不起)[，,]?\s*我(?:不能|无法)|无法(?:提供|回答|满足)(?:您|你)?的?(?:请求|问题|要求)"
            r"|as an? (?:ai|language model)|i(?:'|’)?m sorry,? but i|i can(?:no|')t (?:help|assist)"
        ),
    ),
    "an error message": (
        (
            *("error", "exception", "traceback", "http", "rate", "disconnected", "status", "requests", "retries"),
            *("gateway", "unavailable", "upstream", "wrong", "quota", "overloaded", "cuda", "outofmemory", "api key"),
            *("context length", "detail", "errcode", "errmsg", "fault", "success", "code"),
            *("错误", "繁忙", "忙碌", "异常", "出错", "故障", "超时", "失败", "过载", "频繁", "不可用", "报错"),
            *("过多", "过大", "较大", "显存"),
        ),
        _ERROR,
    ),
    "HTML": (
        ("<", "&"),
        re.compile(r"</?(?:html|body|div|span|br|p|a|table|script)\b[^>]*>|&(?:nbsp|lt|gt|amp|quot);"),
    ),
    "JSON debris": (
        ('"', "`", "\\"),
        re.compile(r'[{\[]\s*"\w+"\s*:|"(?:choices|message|content|finish_reason)"\s*:|```|\\u[0-9a-f]{4}|\\n'),
    ),
}
"""What an answer must not hold: words of which one must be there for the pattern to be worth a try, and the pattern.

Both see the answer in lower case. Most answers hold none of the words, which makes the gate ten times as fast."""
