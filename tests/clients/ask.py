"""Ask a server through one client library, in the environment that has it; prints what was answered as JSON.

    python tests/clients/ask.py CLIENT URL KEY MODEL [--stream] [--tools] [--schema]

Nothing of Tuneline is imported: the libraries are used as their documentation says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel

QUESTION = "Book a room in Oslo for two."
SEED, TOKENS = 1, 100


class Booking(BaseModel, extra="forbid"):
    """Book a room"""

    city: Literal["Oslo", "Lima"]
    guests: Literal[1, 2, 3]


TOOL = {
    "type": "function",
    "function": {"name": "book", "description": "Book a room", "parameters": Booking.model_json_schema()},
}


def calls_of(message: Any) -> list[tuple[str, str]]:
    """Of a message in OpenAI's shape."""
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


def book(city: Literal["Oslo", "Lima"], guests: Literal[1, 2, 3]) -> str:
    """Book a room"""
    return f"booked in {city} for {guests}"


class Given(argparse.Namespace):
    client: str
    url: str
    key: str
    model: str
    stream: bool
    tools: bool
    schema: bool


Answer = dict[str, Any]


def answer(text: str | None, calls: list[tuple[str | None, Any]] | None = None) -> Answer:
    """Text, and calls as pairs of a name and arguments (an object, or JSON text of one)."""
    read = [(n, json.loads(a) if isinstance(a, str) else a) for n, a in calls or []]
    return {"text": text, "calls": read}


def ask_openai(given: Given) -> Answer:
    import openai

    client = openai.OpenAI(base_url=given.url, api_key=given.key, max_retries=0)
    body: dict[str, Any] = {"model": given.model, "messages": [{"role": "user", "content": QUESTION}]}
    body |= {"max_completion_tokens": TOKENS, "seed": SEED}
    if given.tools:
        body |= {"tools": [TOOL], "tool_choice": "required"}
    if given.schema:
        parsed = client.chat.completions.parse(response_format=Booking, **body)
        return answer(parsed.choices[0].message.parsed.model_dump_json())  # type: ignore[union-attr]
    if not given.stream:
        message = client.chat.completions.create(**body).choices[0].message
        calls = calls_of(message)
        return answer(message.content, calls)
    with client.chat.completions.stream(**body) as stream:
        for _ in stream:
            pass
        message = stream.current_completion_snapshot.choices[0].message
    return answer(message.content, calls_of(message))


def ask_openai_responses(given: Given) -> Answer:
    import openai

    client = openai.OpenAI(base_url=given.url, api_key=given.key, max_retries=0)
    body: dict[str, Any] = {"model": given.model, "input": QUESTION, "max_output_tokens": TOKENS}
    body["extra_body"] = {"seed": SEED}
    if given.tools:
        body |= {"tools": [{"type": "function", **TOOL["function"]}], "tool_choice": "required"}
    if given.schema:
        parsed = client.responses.parse(text_format=Booking, **body)
        return answer(parsed.output_parsed.model_dump_json())  # type: ignore[union-attr]
    if given.stream:
        response, said = None, ""
        for event in client.responses.create(stream=True, **body):
            if event.type == "response.output_text.delta":
                said += event.delta
            if event.type in ("response.completed", "response.incomplete"):
                response = event.response
        assert response is not None
        assert response.output_text == said
    else:
        response = client.responses.create(**body)
    calls = [item for item in response.output if item.type == "function_call"]
    return answer(response.output_text, [(call.name, call.arguments) for call in calls])


def ask_embeddings(given: Given) -> Answer:
    """The lengths of two vectors, and how far they are apart, as the library of that name gives them."""
    texts = [QUESTION, "The sea is wide."]
    if given.client == "openai-embeddings":
        import openai

        client = openai.OpenAI(base_url=given.url, api_key=given.key, max_retries=0)
        found = [one.embedding for one in client.embeddings.create(model=given.model, input=texts).data]
    elif given.client == "langchain-embeddings":
        from langchain_openai import OpenAIEmbeddings

        made: Any = OpenAIEmbeddings(
            base_url=given.url, api_key=given.key, model=given.model, check_embedding_ctx_length=False,
            max_retries=0,
        )  # fmt: skip
        found = made.embed_documents(texts)
    else:
        import litellm

        told: Any = litellm.embedding(
            model=f"openai/{given.model}", input=texts, api_base=given.url, api_key=given.key
        )
        found = [one["embedding"] for one in told.data]
    lengths = [sum(number * number for number in vector) ** 0.5 for vector in found]
    apart = sum((a - b) ** 2 for a, b in zip(*found, strict=True)) ** 0.5
    return answer(json.dumps({"lengths": lengths, "apart": apart}))


def ask_openai_async(given: Given) -> Answer:
    import openai

    async def work() -> Answer:
        async with openai.AsyncOpenAI(base_url=given.url, api_key=given.key, max_retries=0) as client:
            body: dict[str, Any] = {"model": given.model, "messages": [{"role": "user", "content": QUESTION}]}
            if given.tools:
                body |= {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "book"}}}
            if not given.stream:
                made = await client.chat.completions.create(max_tokens=TOKENS, **body)
                message = made.choices[0].message
                calls = calls_of(message)
                return answer(message.content, calls)
            text, found = "", dict[int, list[str]]()
            async for chunk in await client.chat.completions.create(max_tokens=TOKENS, stream=True, **body):
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    for call in choice.delta.tool_calls or []:
                        parts = found.setdefault(call.index, ["", ""])
                        parts[0] += call.function.name or ""
                        parts[1] += call.function.arguments or ""
            return answer(text, [(name, arguments) for name, arguments in found.values()])

    return asyncio.run(work())


def ask_langchain(given: Given, responses: bool = False) -> Answer:
    from langchain_openai import ChatOpenAI

    chat: Any = ChatOpenAI(
        base_url=given.url,
        api_key=given.key,
        model=given.model,
        max_tokens=TOKENS,
        max_retries=0,
        use_responses_api=responses,
    )
    if given.schema:
        return answer(
            chat.with_structured_output(Booking, method="json_schema").invoke(QUESTION).model_dump_json()
        )
    if given.tools:
        chat = chat.bind_tools([TOOL], tool_choice="any")
    if not given.stream:
        message = chat.invoke(QUESTION)
    else:
        message = None
        for chunk in chat.stream(QUESTION):
            message = chunk if message is None else message + chunk
    text = str(message.text if responses else message.content)
    return answer(text, [(call["name"], call["args"]) for call in message.tool_calls])


def ask_llama_index(given: Given) -> Answer:
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model=given.model,
        api_base=given.url,
        api_key=given.key,
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=TOKENS,
        max_retries=0,
        context_window=1024,
    )
    asked = [ChatMessage(role="user", content=QUESTION)]
    if given.tools:
        tools: Any = {
            "tools": [FunctionTool.from_defaults(book, fn_schema=Booking)],
            "chat_history": asked,
            "tool_required": True,
        }
        if given.stream:
            *_, response = model.stream_chat_with_tools(**tools)
        else:
            response = model.chat_with_tools(**tools)
        calls = model.get_tool_calls_from_response(response)
        return answer(None, [(call.tool_name, call.tool_kwargs) for call in calls])
    if given.stream:
        return answer("".join(str(part.delta or "") for part in model.stream_chat(asked)))
    return answer(model.chat(asked).message.content)


def ask_instructor(given: Given) -> Answer:
    import instructor
    import openai

    mode = instructor.Mode.TOOLS if given.tools else instructor.Mode.JSON_SCHEMA
    plain = openai.OpenAI(base_url=given.url, api_key=given.key, max_retries=0)
    client: Any = instructor.from_openai(plain, mode=mode)
    asked = {"model": given.model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS}
    if given.stream:
        *_, found = client.chat.completions.create_partial(response_model=Booking, max_retries=0, **asked)
    else:
        found = client.chat.completions.create(response_model=Booking, max_retries=0, **asked)
    return answer(None, [("book", found.model_dump())]) if given.tools else answer(found.model_dump_json())


def ask_litellm(given: Given) -> Answer:
    import litellm

    body: dict[str, Any] = {"model": f"openai/{given.model}", "api_base": given.url, "api_key": given.key}
    body |= {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS, "num_retries": 0}
    if given.tools:
        body |= {"tools": [TOOL], "tool_choice": "required"}
    if given.schema:
        body["response_format"] = Booking
    if given.stream:
        made: Any = litellm.stream_chunk_builder(list(litellm.completion(stream=True, **body)))
    else:
        made = litellm.completion(**body)
    message = made.choices[0].message
    return answer(message.content, calls_of(message))


def ask_llm(given: Given) -> Answer:
    """The command `llm` has no way to force a call; the tools are offered."""
    from llm.default_plugins.openai_models import Chat

    model: Any = Chat(
        "tuneline", model_name=given.model, api_base=given.url, supports_tools=True, supports_schema=True
    )
    more: dict[str, Any] = {"tools": [book]} if given.tools else {}
    if given.schema:
        more["schema"] = Booking
    response = model.prompt(QUESTION, stream=given.stream, key=given.key, max_tokens=TOKENS, **more)
    return answer(response.text(), [(call.name, call.arguments) for call in response.tool_calls()])


def ask_pydantic_ai(given: Given, responses: bool = False) -> Answer:
    from pydantic_ai import Agent, NativeOutput, ToolOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=given.url, api_key=given.key)
    kind: Any = OpenAIResponsesModel if responses else OpenAIChatModel
    model = kind(given.model, provider=provider)
    wanted: Any = str
    if given.tools:
        wanted = ToolOutput(Booking, name="book")
    if given.schema:
        wanted = NativeOutput(Booking)
    agent: Any = Agent(model, output_type=wanted, model_settings={"max_tokens": TOKENS}, retries=0)

    async def streamed() -> Any:
        async with agent.run_stream(QUESTION) as result:
            return await result.get_output()

    found = asyncio.run(streamed()) if given.stream else agent.run_sync(QUESTION).output
    if given.tools:
        return answer(None, [("book", found.model_dump())])
    return answer(found.model_dump_json() if given.schema else found)


LIBRARIES: dict[str, Callable[[Given], Answer]] = {
    "openai": ask_openai,
    "openai-async": ask_openai_async,
    "openai-responses": ask_openai_responses,
    "langchain": ask_langchain,
    "langchain-responses": lambda given: ask_langchain(given, responses=True),
    "llama-index": ask_llama_index,
    "instructor": ask_instructor,
    "litellm": ask_litellm,
    "llm": ask_llm,
    "pydantic-ai": ask_pydantic_ai,
    "pydantic-ai-responses": lambda given: ask_pydantic_ai(given, responses=True),
    **dict.fromkeys(("openai-embeddings", "langchain-embeddings", "litellm-embeddings"), ask_embeddings),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("client", choices=sorted(LIBRARIES))
    for name in ("url", "key", "model"):
        parser.add_argument(name)
    for name in ("--stream", "--tools", "--schema"):
        parser.add_argument(name, action="store_true")
    given = parser.parse_args(namespace=Given())
    json.dump(LIBRARIES[given.client](given), sys.stdout)


if __name__ == "__main__":
    main()
