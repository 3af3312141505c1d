"""What hides in a text, or turns it around, is shown."""

from ift.text.printable import printable


def test_joiners_stay_where_they_spell_and_show_where_they_hide():
    family, persian, hindi = "👨\u200d👩\u200d👧", "می\u200cخواهم", "क्\u200dष"
    assert printable(f"{family} {persian} {hindi}") == f"{family} {persian} {hindi}"
    assert printable("pay\u200dpal a\u200c \u200d") == "pay⟨U+200D⟩pal a⟨U+200C⟩ ⟨U+200D⟩"
    assert printable("\u202egnp.exe") == "⟨U+202E⟩gnp.exe"
