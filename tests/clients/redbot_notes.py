"""What REDbot notes about resources, as JSON: python redbot_notes.py '[[method, url, fields], ...]'

REDbot asks for each resource as it is told, and then again on its own: for gzip, for a part, and
whether it has changed. It lints all the answers. This is a program of its own because REDbot has
an event loop and a pool of connections for its whole process.
"""

import json
import random
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from typing import Any

import thor
from redbot.resource import HttpResource  # type: ignore[import-untyped]

CONFIG = ConfigParser()
CONFIG["redbot"] = {"enable_local_access": "yes"}


def check_all(requests: list[Any]) -> list[Any]:
    """For each request the answers, by the name of the check; None where it has not asked.

    All in one run of the loop, which cannot be started a second time.
    """
    found: list[Any] = []
    resources = []  # REDbot itself does not keep them

    def check_next() -> None:
        if len(found) == len(requests):
            thor.stop()
            return
        method, url, fields = requests[len(found)]
        resource = HttpResource(CONFIG["redbot"])
        resources.append(resource)
        resource.set_request(url, method, [tuple(field) for field in fields])
        for each in (resource, *resource.subreqs.values()):
            each.response.request = each.request  # some rules are about both
        resource.on("check_done", lambda: take(resource))
        resource.check()

    def take(resource: Any) -> None:
        answers = {"main": resource, **resource.subreqs}
        found.append({name: describe(answer) for name, answer in answers.items()})
        check_next()

    thor.schedule(0, check_next)
    thor.run()
    return found


def describe(answer: Any) -> dict[str, Any] | None:
    if not answer.fetch_started:
        return None
    error = answer.fetch_error and f"{answer.fetch_error.desc} {answer.fetch_error.detail}"
    responses = [*answer.nonfinal_responses, answer.response]
    notes = [note for response in responses for note in walk(response.notes)]
    fields = {name.lower(): value.strip() for name, value in answer.response.headers.text}
    return {
        "status": answer.response.status_code,
        "coding": fields.get("content-encoding"),
        "error": error,
        "notes": notes,
    }


def walk(notes: Any) -> Iterator[tuple[str, str, str, str]]:
    """The level, name, subject and text of notes, and of the notes below them."""
    for note in notes:
        yield note.level.value, type(note).__name__, note.subject, str(note.summary)
        yield from walk(note.subnotes)


if __name__ == "__main__":
    random.seed(0)  # REDbot chooses the part that it asks for
    print(json.dumps(check_all(json.loads(sys.argv[1]))))
