"""Why a reply could not be read, and what most likely helps."""

from __future__ import annotations

from collections.abc import Mapping

from ift.evaluation.judging import Reply
from ift.settings import JudgeSettings

UNREAD, REFUSED, WITHOUT = "unread", "refused", "without reply"  # how each problem begins
THINKING = f"{UNREAD}: cut off while it was thinking"
ONLY_THOUGHTS = f"{UNREAD}: nothing but thoughts"
CUT_OFF = f"{UNREAD}: cut off at the last token it had"
EMPTY = f"{UNREAD}: an empty reply"
TOOL = f"{UNREAD}: it calls a tool"
FILTERED = f"{REFUSED}: by a filter of content"
BY_JUDGE = f"{REFUSED}: by the judge"
HOPELESS = 20  # new replies, from the first on, of which none says anything: the rest would be paid for nothing
ROOM_TO_THINK = 2000  # tokens, for a model that thinks first
TOO_LONG = ("context", "too long", "too many tokens", "input length")


def problem_of(reply: Reply) -> str:
    """Why a reply was not read, by its form alone."""
    if reply.end == "content_filter":
        return FILTERED
    if reply.instead and not reply.text:
        return TOOL if reply.instead.startswith(("[", "{")) else BY_JUDGE
    if reply.cut_off:
        return CUT_OFF if reply.text.strip() else THINKING  # some services keep the thoughts to themselves
    if not reply.text.strip():
        return EMPTY if not reply.thoughts else ONLY_THOUGHTS if reply.end else THINKING
    return UNREAD


def is_worth_asking_again(problem: str) -> bool:
    """Whether the rule, said once more, may help."""
    return problem in (UNREAD, EMPTY, TOOL, CUT_OFF)


def cure_of(problem: str, settings: JudgeSettings, max_tokens: int) -> str:
    """max_tokens: what a reply may have had."""
    more = max(ROOM_TO_THINK, 4 * max_tokens)
    if problem == THINKING:
        return f"judge.max_tokens={more}: thoughts count as well"
    if problem == ONLY_THOUGHTS:
        return f"judge.max_tokens={more}; or its server takes all that it says for thoughts"
    if problem == CUT_OFF:
        return f"judge.max_tokens={4 * max_tokens}, or {more} for a model that thinks first"
    if problem == EMPTY:
        return f"judge.max_tokens={more} if it thinks first, else another judge.model"
    if problem in (TOOL, FILTERED, BY_JUDGE):
        return "another judge.model"
    if problem.startswith(REFUSED):
        if any(word in problem for word in TOO_LONG):
            return f"judge.max_characters={settings.max_characters // 2}, or a judge with a longer context"
        return "is judge.model right? judge.seed=null and judge.temperature=null leave these out"
    if problem.startswith(WITHOUT):
        return "the same command goes on"
    return "its replies are in verdicts.jsonl; another judge.model follows the rule more often"


def most_common(problems: Mapping[str, int]) -> str:
    return max(problems, key=lambda problem: problems[problem], default="no request was sent")


def shown(reply: Reply) -> str:
    """What came, for samples.jsonl: what it says, what it sent instead, or how its thoughts end."""
    return reply.text or reply.instead or (f"(thinking) ...{reply.thoughts[-300:]}" if reply.thoughts else "")
