"""Chat templates in the manners of several families, as far as tools and reasoning go."""

from __future__ import annotations

_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
)
_HEADER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    + _HEADER
)
"""Knows no tools: calls and tools are left out."""

CHATML_TOOLS = (
    _SYSTEM + "{% if tools or system %}{{ '<|im_start|>system\\n' + system }}"
    "{% if tools %}{{ '\\nFunctions:' }}"
    "{% for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endif %}"
    "{% for m in turns %}"
    "{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\\n<tool_response>' + m.content + '</tool_response><|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}"
    '{{ \'\\n<tool_call>{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}" + _HEADER
)
"""In the manner of Hermes and Qwen: arguments as an object, any number of calls beside a text."""

SINGLE_CALL = (
    _SYSTEM
    + "{{ '<|im_start|>system\\n' + system }}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}"
    "{% for m in turns %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}"
    "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' }}{{ f.arguments | tojson }}{{ '}' }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}" + _HEADER
)
"""In the manner of Llama 3.1: one call a message, and no text beside it."""

LATE_TOOLS = (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}"
    "{% if tools and m == asked[-1] %}{{ '[TOOLS]' }}{{ tools | tojson }}{{ '[/TOOLS]' }}{% endif %}"
    "{{ '[INST]' + m.content + '[/INST]' }}"
    "{% elif m.role == 'tool' %}{{ '[RESULT]' + m.tool_call_id + m.content + '[/RESULT]' }}"
    "{% elif m.tool_calls %}{{ '[CALLS]' }}{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    "{{ call.function | tojson }}{{ call.id }}{% endfor %}{{ '<|im_end|>' }}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
)
"""In the manner of Mistral: tools before the last question, calls as JSON with their ids."""

TEXT_ARGUMENTS = CHATML_TOOLS.replace(
    "{{ call.function.arguments | tojson }}{{ '}</tool_call>' }}",
    "{{ '```json ' + call.function['arguments'] + ' ```}</tool_call>' }}",
)
"""In the manner of DeepSeek: arguments are joined to a text."""

UNMARKED_CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}" + _HEADER
)
"""Writes calls outside of what it marks as the assistant's."""

REASONING = (
    "{% set asked = namespace(last=-1) %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{% set asked.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > asked.last %}"
    "{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}" + _HEADER
)
"""In the manner of Qwen3: reasoning only after the last question."""
