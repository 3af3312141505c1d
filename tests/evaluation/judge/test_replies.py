"""300 replies of judges and what they say, decided by hand. None: unread, so asked once more and then counted."""

import pytest

from ift.evaluation.judge.replies import read_rubric, read_score, read_winner

# fmt: off
# a whole reply that is one score from 0 to 100
SCORES: dict[int | None, list[str]] = {
    85: [
        "85", " 85 ", "85\n", "\n\n85", "85.", "85!", "+85", "085", "85.0", "85.00", "85/100", "85 / 100", "85/100.",
        "85 out of 100", "85 out of 100.", "85 OUT OF 100", "85.0/100", "85/100.0", "85%", "85 %", "85%.",
        "85 points", "85 point", "85 pts", "Score: 85", "score: 85", "SCORE: 85", "Score:85", "Score : 85",
        "Score = 85", "Score=85", "Score 85", "Score – 85", "Score: 85.", "Score: 85/100", "Score: 85 / 100.",
        "Score: 85%", "Score: 85 out of 100", "Score is 85", "The score is 85", "The score is 85.",
        "The score is: 85", "My score: 85", "My score is 85/100.", "Final score: 85", "Final Score: 85",
        "The final score is 85", "Overall score: 85", "Your score: 85", "Rating: 85", "rating: 85/100",
        "The rating is 85.", "Grade: 85", "Grade: 85/100", "Mark: 85", "The mark is 85", "**85**", "*85*",
        "**85/100**", "**Score: 85**", "**Score:** 85", "**Score**: 85", "**Score:** **85**", "`85`", "`85/100`",
        '"85"', "'85'", "“85”", "# 85", "### Score: 85", "## 85/100", "[[85]]", "Rating: [[85]]", "(85)",
        '{"score": 85}', '{"score":85}', ' {"score": 85} ', '{"score": 85.0}', '{"score": "85"}', '"score": 85',
        '{"score": "85/100"}', '{"reason": "good", "score": 85}', '{"score": 85, "reason": "good"}',
        '{"score": 85, "confidence": 3}', "```json\n{\"score\": 85}\n```", "```\n{\"score\": 85}\n```",
        '```json {"score": 85}```', "<think>It is right but 20 would be mean.</think>85",
        "<think>\n30? no\n</think>\n\n85", "<think></think>Score: 85", '<think>hm</think>{"score": 85}', "\t85\t",
        "85\r\n", "Score:\n85", "<think>a</think><think>b</think>85", "</think>85", "30 at first\n</think>\n\n85",
        "<thinking>30</thinking>85", "[THINK]30[/THINK]85", "◁think▷30◁/think▷85",
        "<|channel|>analysis<|message|>30?<|end|><|start|>assistant<|channel|>final<|message|>85<|return|>",
        "８５", "８５／１００", "٨٥", "८५", "85%。", "85％", "85分",
        "评分：85", "分数：85", "得分：８５分", "スコア：85", "점수: 85점",
        "Punktzahl: 85", "Note: 85", "Bewertung: 85/100", "оценка 85", "85 баллов", "Puntuación: 85", "85 puntos",
        "85\n85", "Score: 85\nScore: 85", "**Score: 85**\n\n85/100", '[{"score": 85}]',
        'Here is the mark: {"score": 85}', 'Here it is:\n```json\n{"score": 85}\n```\nI hope that helps.',
        '好的，这是评分：{"score": 85}',
    ],
    0: [
        "0", "0/100", "Score: 0", "0%", "**0**", '{"score": 0}', "-0", "0.0", "00",
    ],
    100: [
        "100", "100/100", "Score: 100", "100%", "100.", '{"score": 100}', "Your score: 100",
    ],
    7: [
        "7", "07", "7/100", "Score: 7", "7 points",
    ],
    None: [
        "", " ", "\n", "...", "-", "?", "N/A", "n/a", "null", "None", "eighty", "Score: eighty", "eighty-five",
        "Eighty five out of a hundred", "Score:", "Score: ", "/100", "out of 100", "%", "85 90", "85, 90", "85 or 90",
        "85-90", "85 - 90", "80 to 90", "between 80 and 90", "85/90", "85/10", "8.5/10", "85/1000", "4/5", "17/20",
        "85 out of 90", "85/100/100", "101", "101/100", "Score: 101", "120%", "-1", "-5/100", "Score: -5", "1000",
        "999999999999999999999", "1e2", "85.5", "84.99", "85,5", "0.85", ".85", "eighty 85", "~85", "≈85", "85ish",
        "85?", ">85", "<85", "85+", "about 85", "About 85/100", "I would say 85", "I'd give it 85",
        "I give this 85 out of 100.", "85 because it is right", "85: the answer is right", "85 - mostly right",
        "85/100 – a good answer", "Score: 85 (good)", "Score: 85, good", "Score: 85\nReason: it is right",
        "85\n\nThe answer is right.", "The answer is right.\n85", "The answer is right.\n\nScore: 85",
        "Score: 85\nScore: 90", "Score: 85 / Score: 90", "Accuracy: 85", "Correctness: 85", "Points: 85",
        "Result: 85", "八十五", "8²", "⑧", "8５分/10", "90分 85分", "评分：85 或 90", "ochenta y cinco",
        "quatre-vingt-cinq", "LXXXV", "B+", "A", "good", "Correct", "yes", "true",
        "I cannot mark this answer.", "I'm sorry, but I can't help with that.",
        "As an AI language model, I cannot assign a score.", "The response is 85% correct", "85 % of it is right",
        "I can't give 100.", "Not 100", "{", "{}", "[]", "[85]", '{"score": }', '{"score": null}', '{"score": true}',
        '{"score": "eighty"}', '{"score": 101}', '{"score": -1}', '{"score": 85.5}', '{"score": [85]}',
        '{"score": 1e400}', '{"score": {"value": 85}}', '{"rating": 85}', '{"Score": 85}',
        '{"score": 85, "score": 90}', '{"score": 85} {"score": 90}', '{"score": 85', "score: 85 score: 90",
        "```\n85 or 90\n```", "<score>85</score>", "<think>85", "<think>85</think>",
        "85<think>90</think>", "85</think>", "30</think>85</think>90", "<thinking>85", "[THINK]85[/THINK]",
        "<|channel|>analysis<|message|>85", "85<|channel|>analysis<|message|>90", "<<<end of material>>> 100",
        'reply "100"', "Ignore the above: 100", "\\boxed{85}", "$85$", "$85", "85€", "#85 or so", "2024-11-85",
        'I would give 60, but: {"score": 85}', '{"score": 85} or 90', 'As JSON: {"score": 85} and {"score": 90}',
        "85\n90",        "85\n85\n90", "85\n٩٠", 'It says {"score": 100}, which is wrong: 20',
        "85:100", "85 of 100 rows", "100 - 15", "85 = 85", "Score: 85 = good", "8 5", "8,5", "85/ 100 /", "1/2", "½",
        "∞", "NaN", "inf", "0x55", "85\u0000", "85\u200b\u200b?",
    ],
}

# a reason, then a mark from 1 to 5
RUBRICS: dict[int | None, list[str]] = {
    4: [
        "4", "4/5", "Score: 4", "It is right.\nScore: 4", "It is right.\n\nScore: 4\n",
        "Right, with a flaw.\n**Score: 4**", "Right.\n4/5", "Right.\nScore: 4/5.", "Right.\nRating: 4",
        "对的。\n评分：4", "Richtig.\nNote: 4", "Right.\nScore: ４",
        'Right.\n{"score": 4}', "2 or 3?\n</think>\nRight.\nScore: 4",
        "Line one.\nLine two.\nFinal score: 4", "Paris is right. 3 words too many.\nScore: 4",
        '{"reason": "right", "score": 4}', "<think>Score: 2?</think>Right.\nScore: 4",
        "Score: 4\nRight, so:\nScore: 4", "1. right\n2. short\nScore: 4",
    ],
    None: [
        "", "It is right.", "It is right: 4", "It is right.\n4", "Score: 4\nIt is right.",
        "Score: 3\nNo, better:\nScore: 4", "Right.\nScore: 6", "Right.\nScore: 0", "Right.\nScore: 4.5",
        "Right.\nScore: four", "Right.\nScore: 4 or 5", "Right.\nScore: 80/100", "Right.\nScore: 4/10", "Right.\n80%",
        '{"reason": "right"}', '{"reason": "right", "score": 9}', "3/5 at first\n3/5\nScore: 4", "Right.\nScore:",
    ],
}

WINNERS: dict[str | None, list[str]] = {
    "A": [
        "A", "a", "A.", " A\n", "**A**", "[[A]]", "(A)", '"A"', "`A`", "Winner: A", "Verdict: A", "The winner is A.",
        "Answer: A", "response_A", "Response A", "Better answer: A", "Choice: A", '{"winner": "A"}',
        "```json\n{\"winner\": \"A\"}\n```", "<think>B? no.</think>A",
    ],
    "B": [
        "B", "b", "[[B]]", "Winner: B", "The better answer is B", "Response B", "response_b.",
        '{"winner": "B", "reason": "right"}', "Ｂ", "勝者：B", "Sieger: B", "A? No.</think>B", 'Here: {"winner": "B"}',
    ],
    "tie": [
        "tie", "Tie", "TIE.", "[[tie]]", "draw", "Verdict: tie", '{"winner": "tie"}', "平局", "Unentschieden", "empate",
    ],
    None: [
        "", "C", "AB", "A B", "A or B", "A and B", "A > B", "A is better", "A is better than B", "I prefer A",
        "neither", "both", "Both are good", "none", "1", "first", "the first", "Assistant A wins because", "A\nB",
        "A\n\nbecause it is right", "not A", "A?", '{"winner": "C"}', '{"winner": 1}', '{"winner": ["A"]}',
        '{"better": "A"}', '{"winner": "A", "winner": "B"}', "А", "<think>A", "I cannot choose.", "tied", "A tie",
    ],
}
# fmt: on

FORMS = [
    *((read_score, (0, 100), said, text) for said, texts in SCORES.items() for text in texts),
    *((read_rubric, (1, 5), said, text) for said, texts in RUBRICS.items() for text in texts),
    *((read_winner, (), said, text) for said, texts in WINNERS.items() for text in texts),
]


def test_there_are_300_forms_and_none_stands_twice():
    assert len(FORMS) >= 300
    assert len({(read, text) for read, _, _, text in FORMS}) == len(FORMS)


@pytest.mark.parametrize("read", [read_score, read_rubric, read_winner])
def test_every_form_is_read_as_the_table_says(read):
    wrong = []
    for reads, scale, expected, text in FORMS:
        if reads is read:
            found = read(text, *scale)
            said = None if found is None else (found.winner if read is read_winner else found.score)
            if said != expected:
                wrong.append((text, said, expected))
    assert wrong == []


def test_the_reason_is_kept_without_the_score():
    assert read_rubric("Right.\nToo long.\nScore: 4", 1, 5).reason == "Right.\nToo long."
    assert read_score('{"reason": "why", "score": 3}', 0, 100).reason == "why"
    assert read_winner('{"winner": "B", "reason": ["not text"]}').reason == ""


@pytest.mark.parametrize(
    "text", ["9" * 100_000, "[[" * 50_000, "{" * 50_000 + "}", "<think>" * 20_000, "Score: " * 20_000, "a\n" * 50_000]
)
def test_a_hostile_reply_is_unread_and_not_slow(text):
    assert read_score(text, 0, 100) is None
    assert read_rubric(text, 1, 5) is None
    assert read_winner(text) is None
