"""The server answers as nginx does, but for the differences that are documented."""

from fuzz.properties import nginx
from tests.rig import REPOSITORY, needs


@needs("nginx")
def test_nginx() -> None:
    (target,) = nginx.TARGETS
    try:
        target.as_test()()
    finally:
        nginx.stop()


def test_each_class_of_differences_is_documented() -> None:
    _, _, text = (REPOSITORY / "docs/fuzzing.md").read_text().partition("\n| class |")
    _, *rows = text.partition("\n\n")[0].splitlines()[1:]
    assert rows == [f"| {each.name} | {each.why} |" for each in nginx.CLASSES]
