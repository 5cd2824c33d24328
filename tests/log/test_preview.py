"""What a list shows of an entry that a search found."""

from log.preview import find_match

LONG = "lorem ipsum dolor sit amet consectetur " * 40


def test_of_several_words_the_place_with_most_of_them_is_shown() -> None:
    found = {
        "prompt": f"alpha {LONG}",
        "response": f"{LONG} alpha {LONG} the omega of Alpha, {LONG} beta {LONG}",
    }
    match = find_match(found, ["alpha", "omega"])
    assert match and (match["key"], match["text"]) == ("response", "omega")
    assert match["after"].startswith(" of Alpha,")
    match = find_match(found, ["a", "consectetur"])
    assert match and match["text"] == "consectetur" and "alpha" in match["before"] + match["after"]
    assert find_match(found, [""]) is None
