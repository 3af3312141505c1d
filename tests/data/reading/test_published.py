"""Data sets with a structure of their own become conversations; what of them is not used is counted."""

import pytest

from ift.data.reading.published import (
    BAIZE,
    NOT_FIRST,
    NOT_ON_THE_PATH,
    of_instances,
    of_marked_text,
    of_segments,
    of_tree,
    whole_trees,
)


def message(text, *replies, role="assistant", **more):
    return {"text": text, "role": role, "replies": list(replies), **more}


def asked(text, *replies, **more):
    return message(text, *replies, role="prompter", **more)


def test_a_tree_is_its_best_ranked_path_as_far_as_an_answer_and_the_rest_is_counted():
    tree = asked(
        "1+1?",
        message("3", rank=1),
        message("2", asked("And 2+2?", message("4", asked("Thanks.")), message("5")), rank=0),
        message("no rank"),
        message("deleted", rank=-1, deleted=True),
    )
    made, unused = of_tree(tree)
    assert (made.history, made.instruction, made.output) == ((("1+1?", "2"),), "And 2+2?", "4")
    assert unused == {NOT_ON_THE_PATH: 5}


def test_where_nothing_is_ranked_the_first_reply_is_taken():
    made, unused = of_tree(asked("a", message("b"), message("c", rank=float("nan"))))
    assert (made.output, unused) == ("b", {NOT_ON_THE_PATH: 1})
    assert of_tree(asked("a", message("b")))[1] == {}


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        (asked("a"), "a tree without an answer"),
        (asked(None, message("b")), "a message of the tree has no text"),
        (message("b", role="system"), "a message of the tree has no text or is of neither"),
        (message("b"), "turns are assistant, not user and assistant"),
    ],
)
def test_a_tree_of_no_use_says_why(tree, why):
    with pytest.raises(ValueError, match=why):
        of_tree(tree)


def flat(name, parent, text, role="assistant", tree="t"):
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, "message_tree_id": tree}


def test_flat_messages_that_stand_together_are_their_tree_with_the_number_of_the_first():
    records = [
        flat("a", None, "1+1?", "prompter"),
        flat("b", "a", "2"),
        flat("c", "b", "And 2+2?", "prompter"),
        flat("d", "c", "4"),
        flat("e", None, "Why?", "prompter", tree="u"),
        flat("f", "e", "So.", tree="u"),
    ]
    trees = list(whole_trees(enumerate(records, start=1)))
    assert [number for number, _ in trees] == [1, 5]
    made = of_tree(trees[0][1]["prompt"])[0]
    assert (made.history, made.instruction, made.output) == ((("1+1?", "2"),), "And 2+2?", "4")
    assert of_tree(trees[1][1]["prompt"])[0].output == "So."


def test_messages_without_their_root_and_other_records_stay_as_they_are():
    lost = flat("b", "a", "2")
    assert list(whole_trees([(1, lost)])) == [(1, lost)]
    assert list(whole_trees([(1, lost), (2, None), (3, lost)])) == [(1, lost), (2, None), (3, lost)]
    assert list(whole_trees([(1, lost), (2, lost)])) == [(1, lost), (2, lost)]  # each is a row of the file
    others = [(1, {"instruction": "a"}), (2, lost)]
    assert list(whole_trees(others)) == others


def test_the_first_instance_is_the_row_and_further_ones_are_counted():
    made, unused = of_instances("Add.", [{"input": "1, 2", "output": "3"}, {"input": "2, 2", "output": "4"}])
    assert (made.instruction, made.input, made.output, unused) == ("Add.", "1, 2", "3", {NOT_FIRST: 1})


@pytest.mark.parametrize(
    ("instances", "why"),
    [
        ([], '"instances" is not a list of objects'),
        ([{"input": "a", "output": 3}], '"output" is a number, not text'),
        ([{"input": "a", "output": "b", "constraints": "None."}], 'an instance has "constraints" too'),
    ],
)
def test_instances_of_no_use_say_why(instances, why):
    with pytest.raises(ValueError, match=why):
        of_instances("a", instances)


def test_marked_text_is_the_turns_between_its_marks():
    made, _ = of_marked_text(f"{BAIZE}\n[|Human|] 1+1?\n[|AI|] 2\n[|Human|] And 2+2?\n[|AI|] 4\n[|Human|] ")
    assert (made.system, made.history, made.instruction, made.output) == ("", (("1+1?", "2"),), "And 2+2?", "4")
    assert of_marked_text("Be brief.\n[|Human|] a [|AI|] b")[0].system == "Be brief."
    with pytest.raises(ValueError, match="turns are none"):
        of_marked_text("[|Human|] a")


def test_segments_are_one_text_whose_unlabelled_parts_are_not_learnt():
    segments = [{"label": False, "text": "Q: é\n"}, {"label": True, "text": "A: b\n"}, {"label": False, "text": "Q:"}]
    made, _ = of_segments(segments)
    assert (made.instruction, made.output) == ("", "Q: é\nA: b\nQ:")
    assert made.unlearnt_parts == ((0, 0, 5), (0, 10, 12))
    with pytest.raises(ValueError, match="segment 2 is not an object with a text and a label"):
        of_segments([segments[0], {"text": "a"}])
