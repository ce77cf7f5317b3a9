"""LangChain's client: an image and a question, as a whole and streamed."""

import base64
import json
from pathlib import Path

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="npo", base_url="http://127.0.0.1:8000/v1", api_key="none", max_tokens=16, temperature=0)
answers = []
for row in map(json.loads, Path("questions.jsonl").read_text().splitlines()):
    url = "data:image/png;base64," + base64.b64encode(Path(row["image"]).read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": row["question"]}]
    messages = [HumanMessage(content=parts)]
    streamed = "".join(chunk.content for chunk in model.stream(messages))
    answers.append({"answer": model.invoke(messages).content, "streamed": streamed})
Path("answers.json").write_text(json.dumps(answers))
