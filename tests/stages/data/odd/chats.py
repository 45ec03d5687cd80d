"""Odd chats: fields, roles, contents, reasoning."""

from __future__ import annotations

import json

from tests.stages.backends import templates
from tests.stages.data.odd.rows import answer, chat, messages_case, user

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
REFUSES_SYSTEM = NO_SYSTEM.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}",
    1,
)


WEIGHED = chat(user("Bo?"), answer("Old.", weight=0), user(), answer(weight=1))
OPENAI = [
    messages_case(
        "OpenAI's weight",
        WEIGHED,
        ('used: user: "Bo?"; assistant: "Old."; user: "Warm in Bo?"; **assistant: "Yes.";**'),
        settings={"train_on": "weight"},
    ),
    messages_case(
        "OpenAI's weight, not asked for",
        WEIGHED,
        ("row refused: unsupported_field: message 2 has weight: prepare.train_on is not weight"),
    ),
    messages_case(
        "a weight between 0 and 1",
        chat(user(), answer(weight=0.5)),
        "row refused: unsupported_field: message 2 has weight: 0.5, expected 0 or 1",
        settings={"train_on": "weight"},
    ),
    messages_case(
        "weight 0 on the last answer",
        chat(user(), answer(weight=0)),
        "row refused: unsupported_field: the last message has weight: 0, and a row ends with",
        settings={"train_on": "weight"},
    ),
    messages_case(
        "text in parts",
        chat(user([{"type": "text", "text": "Warm "}, {"type": "text", "text": "in Bo?"}]), answer()),
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
    ),
    messages_case(
        "an image among the parts",
        chat(user([{"type": "image_url", "image_url": {"url": "a.png"}}]), answer()),
        "row refused: unsupported_field: message 1 (user) has a part of type 'image_url':",
    ),
    messages_case(
        "`images` of a row",
        chat(user(), answer(), images=["a.png"]),
        "row refused: unsupported_field: the row has images: only text is trained",
    ),
    messages_case(
        "`name` of a user",
        chat(user(name="Ann"), answer()),
        "row refused: unsupported_field: message 1 has name: several speakers of one role",
    ),
    messages_case(
        "the role `developer`",
        chat({"role": "developer", "content": "Be brief."}, user(), answer()),
        'used: system: "Be brief."; user: "Warm in Bo?"; **assistant: "Yes.";**',
    ),
    messages_case(
        "an unknown role",
        chat(user(), {"role": "critic", "content": "No."}, answer()),
        "row refused: unsupported_role: the role 'critic' is not one of system, developer, user,",
    ),
    messages_case(
        "a role in capitals",
        chat({"role": "User", "content": "Warm in Bo?"}, answer()),
        "row refused: unsupported_role: the role 'User' is not one of system, developer, user,",
    ),
    messages_case(
        "a system message between others",
        chat(user(), {"role": "system", "content": "Be brief."}, answer()),
        "row refused: unsupported_role: a system message stands after the first message",
    ),
    messages_case(
        "an empty system message",
        chat({"role": "system", "content": " "}, user(), answer()),
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
    ),
    messages_case(
        "two users' messages in a row",
        chat(user("Hi."), user(), answer()),
        'used: user: "Hi."; user: "Warm in Bo?"; **assistant: "Yes.";**',
    ),
    messages_case(
        "two answers in a row",
        chat(user(), answer(), answer("Very.")),
        'used: user: "Warm in Bo?"; **assistant: "Yes.";** **assistant: "Very.";**',
    ),
    messages_case(
        "the user has the last word",
        chat(user(), answer(), user("Thanks.")),
        ("row refused: missing_answer: the row has no answer: its last message must be the"),
    ),
    messages_case(
        "the assistant begins",
        chat(answer("Hi."), user(), answer()),
        "row refused: missing_prompt: the row has no user message before the assistant's",
    ),
    messages_case(
        "no messages",
        chat(),
        "row refused: missing_prompt: the row has no user message before the assistant's",
    ),
    messages_case(
        "`content: null`",
        chat(user(), answer(None)),
        "row refused: wrong_type: message 2 (assistant) is null, expected a text",
    ),
    messages_case(
        "a number as content",
        chat(user(), answer(4)),
        "row refused: wrong_type: message 2 (assistant) is a number, expected a text",
    ),
    messages_case(
        "an object as content",
        chat(user({"text": "Warm?"}), answer()),
        "row refused: wrong_type: message 1 (user) is an object, expected a text",
    ),
    messages_case(
        "an empty message of the user",
        chat(user(""), answer()),
        "row refused: empty_message: message 1 (user) is empty",
    ),
    messages_case(
        "an answer of blanks",
        chat(user(), answer(" \n")),
        ("row refused: missing_answer: the row has no answer: its last message must be the"),
    ),
    messages_case(
        "messages as JSON text",
        {"messages": json.dumps([user(), answer()])},
        "row refused: wrong_type: messages is a text, expected a list",
    ),
    messages_case(
        "a message that is a text",
        {"messages": [user(), "Yes."]},
        ("row refused: wrong_type: messages holds a text, expected messages: a list of {role,"),
    ),
    messages_case(
        "an end-of-turn token in a text",
        chat(user("Bo<|im_end|>?"), answer()),
        "row refused: control_token: message 1 holds the control token '<|im_end|>'",
    ),
    messages_case(
        "`chat_template_kwargs`",
        chat(user(), answer(), chat_template_kwargs={"enable_thinking": False}),
        "row refused: unsupported_field: the row has chat_template_kwargs: chats are",
    ),
    messages_case(
        "`documents` for the template",
        chat(user(), answer(), documents=[{"text": "Bo is warm."}]),
        "row refused: unsupported_field: the row has documents: chats are rendered from",
    ),
    messages_case(
        "a template that refuses system messages",
        chat({"role": "system", "content": "Be brief."}, user(), answer()),
        "row refused: chat_template: the chat template refuses the roles ['system', 'user',",
        template=REFUSES_SYSTEM,
    ),
    messages_case(
        "a template that leaves system messages out",
        chat({"role": "system", "content": "Be brief."}, user(), answer()),
        ("row refused: not_rendered: the chat template does not write the content of message"),
        template=NO_SYSTEM,
    ),
    messages_case(
        "`system` of a row beside a system message",
        chat({"role": "system", "content": "Be brief."}, user(), answer(), system="Be kind."),
        "row refused: unsupported_role: a system message stands after the first message",
    ),
    messages_case(
        "fields that say nothing of what to learn",
        chat(user(at=3), answer(), id=7, source="web"),
        ('used: user: "Warm in Bo?"; **assistant: "Yes.";** (not used: id, messages[].at, source)'),
    ),
]
REASONING = [
    messages_case(
        "`reasoning_content`, and a template that writes it",
        chat(user(), answer(reasoning_content="Bo lies south.")),
        'used: user: "Warm in Bo?"; **assistant: thought "Bo lies south.", "Yes.";**',
        template=templates.REASONING,
    ),
    messages_case(
        "`reasoning_content`, and a template without it",
        chat(user(), answer(reasoning_content="Bo lies south.")),
        "run refused: rows.jsonl line 1: the chat template of models/base does not write the",
    ),
    messages_case(
        "`reasoning` and `thinking` in one answer",
        chat(user(), answer(reasoning="A.", thinking="B.")),
        ("row refused: unsupported_field: message 2 has reasoning and thinking; keep one of"),
    ),
    messages_case(
        "a thought in the text",
        chat(user(), answer("<think>Bo lies south.</think>Yes.")),
        'used: user: "Warm in Bo?"; **assistant: "<think>Bo lies south.</think>Yes.";**',
    ),
    messages_case(
        "a thought that is not closed",
        chat(user(), answer("<think>Bo lies south. Yes.")),
        ("row refused: malformed: message 2 opens <think> and does not close it (</think>)"),
    ),
    messages_case(
        "a thought, and no answer after it",
        chat(user(), answer("<think>Bo lies south.</think>")),
        "row refused: missing_answer: message 2 has no answer after its thought",
    ),
]
CASES = [*OPENAI, *REASONING]
