r"""ChatGLM3's conversations as a Jinja template, and the reverse, for Hugging Face's `tokenizer_config.json`.

The template takes messages as the format `messages` of `glmja.conversation.formats` does, and either gives the ids of
`glmja.conversation.rendering` or raises. The space after the line feed stands for the dummy prefix that SentencePiece
puts before each text: content is encoded by itself there, and an empty text has no prefix.
"""

from __future__ import annotations

TOOL_PROMPT = "Answer the following questions as best as you can. You have access to the following tools:"

# Jinja has no JSON parser, and OpenAI's clients send arguments as JSON text: this macro writes them as Python's `repr`
# does. Escapes are those of Python's `unicode_escape`, where surrogate pairs are joined afterwards.
_PYTHON_ARGUMENTS = r"""
{%- macro word_of(word) -%}
{%- if word in ['true', 'false', 'null'] -%}{{ {'true': 'True', 'false': 'False', 'null': 'None'}[word] }}
{%- elif word -%}
{%- set number = word|float('no') if '.' in word or 'e' in word|lower or word[-1] in 'Ny' else word|int('no') -%}
{%- if number == 'no' or '_' in word -%}{{ raise_exception('arguments of a tool call are not JSON') }}{%- endif -%}
{{ '%r'|format(number) }}
{%- endif -%}
{%- endmacro -%}
{%- macro arguments_of(text) -%}
{%- set s = namespace(stack='', quoted=false, escaped=false, key=false, part='', out='', keys=[], begun=false) -%}
{%- for c in text -%}
{%- if s.quoted and s.escaped -%}
{%- set s.part = s.part + ('' if c == '/' else '\\') + c -%}{%- set s.escaped = false -%}
{%- elif s.quoted and c == '\\' -%}{%- set s.escaped = true -%}
{%- elif s.quoted and c == '"' -%}
{%- set s.quoted = false -%}
{%- set value = s.part.encode('raw_unicode_escape').decode('unicode_escape') -%}
{%- set value = value.encode('utf-16', 'surrogatepass').decode('utf-16') -%}
{%- if s.key and s.stack == '{' -%}
{%- if not value.isidentifier() or value in s.keys -%}
{{ raise_exception('a tool call needs keyword arguments') }}
{%- endif -%}
{%- set s.keys = s.keys + [value] -%}{%- set s.out = s.out + value + '=' -%}
{%- else -%}{%- set s.out = s.out + '%r'|format(value) -%}
{%- endif -%}
{%- set s.part = '' -%}
{%- elif s.quoted -%}{%- set s.part = s.part + c -%}
{%- elif c == '"' -%}{%- set s.quoted = true -%}
{%- elif c in '{[' -%}
{%- if not s.stack and (s.begun or c == '[') -%}
{{ raise_exception('a tool call needs keyword arguments') }}
{%- endif -%}
{%- set s.out = s.out + (c if s.stack else '') -%}{%- set s.stack = s.stack + c -%}
{%- set s.key = c == '{' -%}{%- set s.begun = true -%}
{%- elif c in '}],' -%}
{%- set s.out = s.out + word_of(s.part) -%}{%- set s.part = '' -%}
{%- if c == ',' -%}{%- set s.out = s.out + ', ' -%}{%- set s.key = s.stack[-1:] == '{' -%}
{%- else -%}{%- set s.stack = s.stack[:-1] -%}{%- set s.out = s.out + (c if s.stack else '') -%}
{%- endif -%}
{%- elif c == ':' -%}{%- set s.out = s.out + ('' if s.stack == '{' else ': ') -%}{%- set s.key = false -%}
{%- elif c not in ' \t\n\r' -%}{%- set s.part = s.part + c -%}
{%- endif -%}
{%- endfor -%}
{%- if s.stack or s.quoted or s.part or not s.begun -%}
{{ raise_exception('arguments of a tool call are not JSON') }}
{%- endif -%}
{{ s.out }}
{%- endmacro -%}
"""

_CALLS = r"""
{%- macro call_of(function) -%}
{%- if function.arguments is mapping -%}
{%- for key, value in function.arguments.items() -%}
{%- if not key.isidentifier() -%}{{ raise_exception('a tool call needs keyword arguments') }}{%- endif -%}
{{ ', ' if not loop.first }}{{ key }}={{ '%r'|format(value) }}
{%- endfor -%}
{%- elif function.arguments is string -%}{{ arguments_of(function.arguments) }}
{%- else -%}{{ raise_exception('a tool call needs keyword arguments') }}
{%- endif -%}
{%- endmacro -%}
{%- macro settle(run) -%}
{%- if run.calls|length < 2 -%}{%- set run.out = run.out + run.calls + run.results -%}
{%- else -%}
{%- set ids = run.results|map(attribute='id')|select|list -%}
{%- set called = run.calls|map(attribute='id')|list -%}
{%- set by_id = ids|length == run.calls|length -%}
{%- if run.results|length != run.calls|length or (by_id and called|unique|list|length != called|length) -%}
{{ raise_exception('each of several tool calls needs its result; ChatGLM3 makes one call at a time') }}
{%- endif -%}
{%- for call in run.calls -%}
{%- set result = run.results|selectattr('id', 'equalto', call.id)|list|last if by_id else run.results[loop.index0] -%}
{%- if not result or (result.tool and result.tool != call.metadata) -%}
{{ raise_exception('the result of a tool belongs to no call') }}
{%- endif -%}
{%- set run.out = run.out + [call, result] -%}
{%- endfor -%}
{%- endif -%}
{%- set run.calls = [] -%}{%- set run.results = [] -%}
{%- endmacro -%}
"""

_MESSAGES = r"""
{%- set roles = {'system': 'system', 'developer': 'system', 'user': 'user', 'assistant': 'assistant',
    'observation': 'observation', 'tool': 'observation', 'function': 'observation'} -%}
{%- set all = namespace(turns=[], tools=false) -%}
{%- if tools and (not messages or roles[messages[0]['role']] != 'system') -%}
{%- set all.turns = [{'role': 'system', 'metadata': '', 'tools': tools, 'content': '"""

_MESSAGES += (
    TOOL_PROMPT
    + r"""'}] -%}
{%- elif not messages -%}{{ raise_exception('the conversation has no messages') }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] not in roles -%}
{{ raise_exception('role ' ~ message['role'] ~ ' is unknown; known are ' ~ roles|join(', ')) }}
{%- endif -%}
{%- set role = roles[message['role']] -%}
{%- set own = tools if tools and not loop.index0 else message['tools'] or [] -%}
{%- if role == 'system' and loop.index0 -%}{{ raise_exception('only the first message can be a system message') }}
{%- elif message['tools'] and (role != 'system' or tools or message['tools'] is string) -%}
{{ raise_exception('tools are a list of the first message, a system message, or given beside the messages') }}
{%- endif -%}
{%- for key in ['reasoning_content', 'reasoning', 'thinking', 'refusal'] -%}
{%- if message[key] -%}{{ raise_exception('ChatGLM3 has no place for ' ~ key) }}{%- endif -%}
{%- endfor -%}
{%- set called = (message['tool_calls'] or []) + ([{'function': message['function_call']}] if message['function_call']
    else []) -%}
{%- if called and role != 'assistant' -%}{{ raise_exception('only the assistant can call tools') }}{%- endif -%}
{%- set content = '' if called and message['content'] is none or called and message['content'] is undefined
    else message['content'] -%}
{%- if content is not string or (message['metadata'] or '') is not string -%}
{{ raise_exception('the content of a message must be text') }}
{%- endif -%}
{%- if content.strip() or not called -%}
{%- set all.turns = all.turns + [{'role': role, 'metadata': message['metadata'] or '', 'content': content, 'id':
    message['tool_call_id'] or '', 'tool': (message['name'] or '') if role == 'observation' else '', 'tools':
    own if role == 'system' else []}] -%}
{%- endif -%}
{%- for call in called -%}
{%- if call.function is not mapping or call.function.name is not string or not call.function.name -%}
{{ raise_exception('a tool call needs a function with a name') }}
{%- endif -%}
{%- set all.turns = all.turns + [{'role': 'assistant', 'metadata': call.function.name, 'id': call.id or '', 'tool': '',
    'content': '```python\ntool_call(' ~ call_of(call.function) ~ ')\n```'}] -%}
{%- endfor -%}
{%- endfor -%}
{%- set run = namespace(calls=[], results=[], out=[]) -%}
{%- for turn in all.turns -%}
{%- if turn.tools or turn.metadata or turn.role == 'observation' -%}{%- set all.tools = true -%}{%- endif -%}
{%- set is_call = turn.role == 'assistant' and turn.metadata -%}
{%- if run.calls and turn.role == 'observation' -%}{%- set run.results = run.results + [turn] -%}
{%- else -%}
{%- if run.results or not is_call -%}{{ settle(run) }}{%- endif -%}
{%- if is_call -%}{%- set run.calls = run.calls + [turn] -%}
{%- else -%}{%- set run.out = run.out + [turn] -%}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{{- settle(run) -}}
[gMASK]<sop>
{%- for turn in run.out -%}
<|{{ turn.role }}|>{{ turn.metadata }}{{ '\n' }}
{%- set content = turn.content + ('\n' + turn.tools|tojson(indent=4) if turn.tools else '') -%}
{{ ' ' + content if content }}
{%- endfor -%}
{%- if add_generation_prompt %}<|assistant|>{{ '' if all.tools else '\n' }}
{%- elif run.out[-1].role == 'assistant' %}</s>
{%- endif -%}
"""
)

CHAT_TEMPLATE = (_PYTHON_ARGUMENTS + _CALLS + _MESSAGES).lstrip("\n")

_STRING = r"'[^'\\\n]*'"
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_VALUE = rf"(?:{_STRING}|{_NUMBER}|[\[{{](?:{_STRING}|[-+\d.,: \[\]{{}}e])*[\]}}])"
_ARGUMENTS = rf"(?:[^\W\d]\w*={_VALUE}(?:, (?=\w)|(?=\))))*"

# The metadata line of an answer is empty and, where no tool can be called, part of the prompt, after a space there.
# Servers and pipelines show what follows it. A call of a tool becomes one of OpenAI's `tool_calls` if its arguments are
# numbers, strings without escapes, and lists and objects of these: the parsers that a response template can name
# understand no other Python. Other calls stay in the content, the tool's name first.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant", "content": ""},
    "start_anchor": "<|assistant|>",
    "fields": {
        "metadata": {"open_pattern": r"\A ?\n", "close_pattern": r"(?<=\A \n)|(?<=\A\n) ?"},
        "tool_calls": {
            "open_pattern": rf"\A(?P<name>[^\s<][^\n<]*)\n ?```python\ntool_call\((?={_ARGUMENTS}\)\n```)",
            "close": ")\n```",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": rf"(?P<key>\w+)=(?P<value>{_VALUE})",
                "value_parser": {"name": "json", "args": {"string_delims": [["'", "'"]]}},
            },
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["</s>", "<|user|>", "<|observation|>"], "content_args": {"strip": False}},
    },
}
