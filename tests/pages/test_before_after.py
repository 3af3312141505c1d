"""Where tuning helped and where it hurt, by hand: which answers pair, how close they are, what may be concluded."""

import pytest

from ift.pages.before_after import Pair, bars, measures, of_evaluation, of_samples, shown

REFERENCE = "the cat sat down"


def pair(untuned, tuned, *, reference=REFERENCE, losses=(None, None)):
    return Pair("i", "", reference, untuned, tuned, "", *losses)


def sample(step, response, **more):
    return {"step": step, "instruction": "i", "input": "", "reference": REFERENCE, "response": response, **more}


def test_samples_pair_the_untuned_answer_with_the_best_steps():
    samples = [sample(step, f"at {step}", loss=9.0 - step) for step in (0, 5, 9)]
    (found,) = of_samples(samples, best_step=5)
    assert (found.untuned, found.tuned) == ("at 0", "at 5")
    assert (found.untuned_loss, found.tuned_loss) == (9.0, 4.0)


def test_samples_of_an_earlier_release_have_no_losses_and_an_untuned_best_has_no_pair():
    samples = [sample(step, f"at {step}") for step in (0, 5)]
    (found,) = of_samples(samples, best_step=5)
    assert (found.untuned_loss, found.tuned_loss) == (None, None)
    odd = [{**each, "loss": loss} for each, loss in zip(samples, (-1.0, "high"), strict=True)]
    assert of_samples(odd, best_step=5) == [found]
    assert of_samples(samples, best_step=0) == []
    assert of_samples(samples, best_step=None) == []


def test_lines_of_the_evaluation_pair_by_their_row():
    lines = [
        {"doc_id": i, "model": model, "instruction": f"i {i}", "input": "", "target": REFERENCE, "category": "c"}
        | {"said": f"{model} {i}", "metrics": {"loss": float(i)}}
        for model in ("base", "tuned")
        for i in (1, 0)
    ]
    found = of_evaluation([*lines, {**lines[2], "doc_id": 7}])  # 7 has no partner
    assert [(p.instruction, p.untuned, p.tuned) for p in found] == [
        ("i 1", "base 1", "tuned 1"),
        ("i 0", "base 0", "tuned 0"),
    ]
    assert found[0].category == "c"


def test_where_tuning_hurt_most_stands_first_and_what_has_no_reference_last():
    rows = shown(
        [
            pair("nothing", REFERENCE),  # 0 to 1
            pair("a", "b", reference=""),
            pair(REFERENCE, "the cat"),  # 1 to 2·2/(4+2)
            pair("the dog", "the bird"),  # both 2·1/(4+2)
        ]
    )
    assert [row.kind for row in rows] == ["hurt", "even", "helped", ""]
    assert [row.change for row in rows[:3]] == pytest.approx([2 / 3 - 1, 0, 1])


def test_differences_are_tested_row_by_row():
    """12 rows, each closer: of 2^12 ways to swap pairs two are as extreme, p = 2/4096, times 4 for four tests."""
    rows = shown([pair("no", REFERENCE, losses=(5.0, 2.0)) for _ in range(12)])
    found = {m.name: m for m in measures(rows)}
    assert {name: m.verdict for name, m in found.items()} == dict.fromkeys(
        ("exact match", "ROUGE-L", "chrF", "loss of the reference"), "better"
    )
    assert found["loss of the reference"].test.difference == -3
    assert found["exact match"].test.p == pytest.approx(4 * 2 / 4096)
    few = {m.name: m.verdict for m in measures(shown([pair("no", REFERENCE)] * 3))}
    # p = 2/8 at best; no loss was measured
    assert few == {"exact match": "not settled", "ROUGE-L": "not settled", "chrF": "not settled"}


def test_a_bar_for_each_change_the_lowest_first():
    rows = [pair("no", REFERENCE), pair(REFERENCE, "no"), *[pair("no", "no")] * 8]
    drawn = bars(shown(rows))
    found = [(b["kind"], b["y"], b["height"]) for b in drawn["bars"]]
    assert found == [("hurt", 60, 60), *[("even", 60, 1)] * 8, ("helped", 0, 60)]
    gains = bars(shown([pair("no", REFERENCE)] * 10))  # all of the height for what there is
    assert (gains["zero"], gains["bars"][0]["y"], gains["bars"][0]["height"]) == (120, 0, 120)
    assert bars(shown(rows[:9])) is None
