"""Tags are read as S3 reads them, and what an object cannot have is refused in S3's words."""

import pytest

from localcloud.object_tags import MAX_TAGS, plain_tag, tags_of_form
from localcloud.post_policy import RefusedError


def xml(*tags: tuple[str, str]) -> str:
    each = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags)
    return f"<Tagging><TagSet>{each}</TagSet></Tagging>"


@pytest.mark.parametrize("said", ["", "kept", "=no", "a=b&c=d", "a=%20", "a=b+c", "aws:a=b", "a" * 129 + "=b"])
def test_a_header_that_says_more_than_one_plain_tag_is_not_guessed(said: str) -> None:
    assert plain_tag(said) is None


def test_one_plain_tag_is_read() -> None:
    assert plain_tag("kept=no") == [{"Key": "kept", "Value": "no"}]


def test_the_tags_of_a_form_are_read_with_and_without_a_name_space() -> None:
    wanted = [{"Key": "kept", "Value": "no"}, {"Key": "a b", "Value": "ä+=./:@-_"}]
    plain = xml(("kept", "no"), ("a b", "ä+=./:@-_"))
    named = plain.replace("<Tagging>", '<Tagging xmlns="http://s3.amazonaws.com/doc/2006-03-01/">')
    assert tags_of_form(plain) == tags_of_form(named) == wanted
    assert tags_of_form(xml()) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("kept=no", "MalformedXML"),
        ("<Tagging/>", "MalformedXML"),
        ("<Tags><TagSet/></Tags>", "MalformedXML"),
        ("<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>", "MalformedXML"),
        (xml(("a", "1"), ("a", "2")), "InvalidTag"),
        (xml(("aws:a", "1")), "InvalidTag"),
        (xml(("a", "?")), "InvalidTag"),
        (xml(("a" * 129, "")), "InvalidTag"),
        (xml(("a", "b" * 257)), "InvalidTag"),
        (xml(*((str(n), "") for n in range(MAX_TAGS + 1))), "BadRequest"),
    ],
)
def test_what_no_object_can_have_is_refused(text: str, code: str) -> None:
    with pytest.raises(RefusedError) as refused:
        tags_of_form(text)
    assert (refused.value.status, refused.value.code) == (400, code)
