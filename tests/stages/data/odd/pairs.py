"""Odd questions and answers: Alpaca's rows, prompts and completions, preferences."""

from __future__ import annotations

from tests.stages.backends import templates
from tests.stages.data.odd.case import Case
from tests.stages.data.odd.rows import TOOLS, alpaca_case, answer, user

ALPACA = [
    alpaca_case(
        "Alpaca with input",
        {"instruction": "Sum up.", "input": "Bo is warm.", "output": "Warm."},
        'used: user: "Sum up.\\n\\nBo is warm."; **assistant: "Warm.";**',
    ),
    alpaca_case(
        "Alpaca with history",
        {"instruction": "Warm?", "input": "", "output": "Yes.", "history": [["Hi.", "Hello."]]},
        ('used: user: "Hi."; **assistant: "Hello.";** user: "Warm?"; **assistant: "Yes.";**'),
    ),
    alpaca_case(
        "a history of another shape",
        {"instruction": "Warm?", "output": "Yes.", "history": ["Hi."]},
        ("row refused: unsupported_field: history is expected as a list of [question, answer]"),
    ),
    alpaca_case(
        "Dolly's context",
        {"instruction": "Sum up.", "context": "Bo is warm.", "response": "Warm.", "category": "sum"},
        ('used: user: "Sum up.\\n\\nBo is warm."; **assistant: "Warm.";** (not used: category)'),
    ),
    alpaca_case(
        "`input` and `context`",
        {"instruction": "Sum up.", "input": "Bo.", "context": "Bo is warm.", "output": "Warm."},
        ("row refused: unsupported_field: the row has input and context; one can follow the"),
    ),
    alpaca_case(
        "two answers, `output` and `response`",
        {"instruction": "Warm?", "output": "Yes.", "response": "No."},
        ("row refused: unsupported_field: the row has output and response; keep one as the"),
    ),
]
PAIRS = [
    Case(
        "a prompt that is a list of one text",
        [{"prompt": ["Warm in Bo?"], "completion": "Yes."}],
        "row refused: wrong_type: prompt is a list, expected a text",
    ),
    Case(
        "prompt and completion as lists of messages",
        [{"prompt": [user()], "completion": [answer()]}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
    ),
    Case(
        "a prompt of messages, a completion of text",
        [{"prompt": [user()], "completion": "Yes."}],
        "row refused: wrong_type: prompt is a list, expected a text",
    ),
    Case(
        "several answers in a list",
        [{"prompt": "Warm in Bo?", "completion": ["Yes.", "Very."]}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";** also right: "Very.";',
    ),
    Case(
        "`references` beside the answer",
        [{"prompt": "Warm in Bo?", "completion": "Yes.", "references": ["Yes.", "It is."]}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";** also right: "It is.";',
    ),
    Case(
        "SQuAD's answers",
        [{"question": "Warm in Bo?", "answers": {"text": ["Yes.", "It is."], "answer_start": [0, 4]}}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";** also right: "It is.";',
    ),
    Case(
        "a reference that is a number",
        [{"prompt": "Warm in Bo?", "completion": "Yes.", "references": [21]}],
        "row refused: malformed: references is [21], expected a list of texts",
    ),
    Case(
        "a column that is kept",
        [{"prompt": "Warm in Bo?", "completion": "Yes.", "town": "Bo"}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";** slices: {"town": "Bo"};',
        settings={"slices": ["town"]},
    ),
    Case(
        "two answers, `completion` and `answer`",
        [{"prompt": "Warm in Bo?", "completion": "Yes.", "answer": "No."}],
        ("row refused: unsupported_field: the row has completion and answer; keep one as the"),
    ),
    Case(
        "two questions, `prompt` and `question`",
        [{"prompt": "Be brief.", "question": "Warm in Bo?", "answer": "Yes."}],
        ("row refused: unsupported_field: the row has question and prompt; keep one as the"),
        plain={"question": "What is two and two?", "answer": "Four."},
    ),
    Case(
        "an instruction beside prompt and completion",
        [{"instruction": "Be brief.", "prompt": "Warm in Bo?", "completion": "Yes."}],
        ("row refused: unsupported_field: the row has prompt and instruction; keep one as the"),
    ),
    Case(
        "`context` beside question and answer",
        [{"question": "Warm in Bo?", "context": "Bo is warm.", "answer": "Yes."}],
        "row refused: unsupported_field: the row has context: this format does not say where",
        plain={"question": "What is two and two?", "answer": "Four."},
    ),
    Case(
        "tools beside prompt and completion",
        [{"prompt": "Warm in Bo?", "completion": "Yes.", "tools": TOOLS}],
        'used: user: tools warmth, "Warm in Bo?"; **assistant: "Yes.";**',
        template=templates.CHATML_TOOLS,
    ),
    Case(
        "an empty prompt",
        [{"prompt": "", "completion": "Yes."}],
        "row refused: empty_message: message 1 (user) is empty",
    ),
    Case(
        "an empty completion",
        [{"prompt": "Warm in Bo?", "completion": ""}],
        ("row refused: missing_answer: the row has no answer: its last message must be the"),
    ),
    Case(
        "`completion: null`",
        [{"prompt": "Warm in Bo?", "completion": None}],
        ("row refused: missing_answer: the row has no answer: completion is null or missing"),
    ),
    Case(
        "`chosen` and `rejected`, format not said",
        [{"prompt": "Warm in Bo?", "chosen": "Yes.", "rejected": "No."}],
        "row refused: unsupported_field: the row has chosen: pairs of answers are read with",
    ),
    Case(
        "`chosen` and `rejected`, said",
        [{"prompt": "Warm in Bo?", "chosen": "Yes.", "rejected": "No."}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";** not assistant: "No.";',
        settings={"format": "preferences"},
        plain=None,
    ),
    Case(
        "KTO's label",
        [{"prompt": "Warm in Bo?", "completion": "Yes.", "label": True}],
        "row refused: unsupported_field: the row has label: labels of single answers (KTO)",
    ),
    Case(
        "the label of a class",
        [{"prompt": "Warm in Bo?", "completion": "Yes.", "label": 3}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";** (not used: label)',
    ),
    Case(
        "a dialogue of three people",
        [{"turns": [{"speaker": n, "text": "Hi."} for n in "abc"]}],
        "row refused: unsupported_role: 3 people speak; expected two",
        plain={
            "turns": [{"speaker": "a", "text": "What is two and two?"}, {"speaker": "b", "text": "Four."}]
        },
    ),
]
CASES = [*ALPACA, *PAIRS]
