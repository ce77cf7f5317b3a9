"""VQA accuracy: a soft score against the answers of ten people, in the three public variants that are not the same.

- `vqa_official` (GT-Vision-Lab/VQA@a013f00:PythonEvaluationTools/vqaEvaluation/vqaEval.py): the mean over the people of
  min(1, matches among the others / 3); both sides are normalised only where the people do not all agree.
- `vqa_m4c` (haotian-liu/LLaVA@c121f04:llava/eval/m4c_evaluator.py, as Pythia / MMF for TextVQA): the same mean, always
  normalised, after a word tokenisation.
- `vqa_simple` (google-research/big_vision@0127fb6): min(1, matches / 3), nobody left out, lower-casing only.

Current lmms-eval (EvolvingLMMs-Lab/lmms-eval@7993835:lmms_eval/tasks/vqav2/utils.py) differs from `vqa_official`: it
normalises the model's answer always. "Black." against ten people's "black" is 1 there and 0 here, as in the original.

The normalisation keeps upstream's quirks, since published numbers hold them: a period goes unless a digit follows it
(its other guard is mistyped upstream), and only the first 32 periods go (a flag is passed as `count` there).
"""

import re
from collections.abc import Callable, Sequence

_NUMBERS = {
    word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = int(re.UNICODE)
_DIGIT_COMMA = re.compile(r"\d,\d")
# Upstream's list, each under every spelling that lacks one of its apostrophes.
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've"
    " he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't"
    " not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll"
    " somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd"
    " there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll"
    " what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's"
    " won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
).split()
_MISSPELT = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTIONS for at, mark in enumerate(word) if mark == "'"
} | {"somebody'd": "somebodyd"}  # upstream has this one the wrong way round


def normalise(text: str) -> str:
    """Official normalisation: punctuation, lower case, number words, articles, contractions."""
    return _words(_punctuation(_plain(text)))


def normalise_m4c(text: str) -> str:
    """The normalisation of `vqa_m4c`: lower case, "," and "?" dropped, "'s" split off, then as `normalise`."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_punctuation(_plain(text)))


def official(answer: str, people: Sequence[str]) -> float:
    """`vqa_official` of one answer."""
    answer, people = _plain(answer), [_plain(other) for other in people]
    if len(set(people)) > 1:
        answer, people = normalise(answer), [normalise(other) for other in people]
    return _leave_one_out(sum(other.lower() == answer.lower() for other in people), len(people))


def m4c(answer: str, people: Sequence[str]) -> float:
    """`vqa_m4c` of one answer."""
    answer = normalise_m4c(answer)
    return _leave_one_out(sum(normalise_m4c(other) == answer for other in people), len(people))


def simple(answer: str, people: Sequence[str]) -> float:
    """`vqa_simple` of one answer."""
    return min(1.0, sum(other.lower() == answer.lower() for other in people) / 3)


VARIANTS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "vqa_official": official,
    "vqa_m4c": m4c,
    "vqa_simple": simple,
}


def _leave_one_out(matches: int, people: int) -> float:
    """The mean over the people of min(1, matches among the others / 3)."""
    with_one_less = matches * min(1.0, (matches - 1) / 3)
    return (with_one_less + (people - matches) * min(1.0, matches / 3)) / people


def _plain(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str) -> str:
    """Each mark goes where it touches a space somewhere (or the text has a number like 1,000), else becomes one."""
    found = text
    for mark in _MARKS:
        touches = f"{mark} " in text or f" {mark}" in text or _DIGIT_COMMA.search(text)
        found = found.replace(mark, "" if touches else " ")
    return _PERIOD.sub("", found, count=_MOST_PERIODS)


def _words(text: str) -> str:
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_MISSPELT.get(word, word) for word in words if word not in _ARTICLES)
