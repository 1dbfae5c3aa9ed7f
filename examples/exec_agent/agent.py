"""An agent in plain Python, and it could be in any language: a turn comes in as a line of JSON, lines of JSON go out.

It knows nothing of where it runs. It may use one tool, and it keeps count of its guests.
"""

import json
import sys


def say(**message):
    print(json.dumps(message), flush=True)


def hear():
    return json.loads(sys.stdin.readline())


turn = hear()
words = [word.strip(".,?!") for word in turn["text"].lower().split()]
wanted = [word for word in words if word in ("coffee", "tea", "cake")]

# All prices at once: the answers come as they are ready, each with the id of its question.
for number, item in enumerate(wanted):
    say(type="tool", id=str(number), name="till_price", arguments={"item": item})
answers = [hear() for _ in wanted]

if any(answer["failed"] for answer in answers):
    say(type="error", text="the till is broken", retryable=True)
    sys.exit()

guests = turn["state"].get("guests", 0) + 1
say(type="state", state={"guests": guests})
say(type="text", text=f"That is {sum(int(answer['text']) for answer in answers) / 100:.2f}.")
say(type="text", text=f" You are guest number {guests}.")
say(type="final")
