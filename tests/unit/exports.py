"""Files in the shapes that other systems export, with the odd ones that occur in them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

T0 = 1_740_000_000.0


def node(
    name: str, parent: str | None, role: str = "", parts: Any = None, **more: Any
) -> tuple[str, dict[str, Any]]:
    """A node of ChatGPT's tree, with all fields that the export writes."""
    message = None
    if role:
        content = more.pop(
            "content",
            {"content_type": more.pop("content_type", "text"), "parts": parts},
        )
        message = {
            "id": name,
            "author": {"role": role, "name": more.pop("tool", None), "metadata": {}},
            "create_time": more.pop("at", T0),
            "update_time": None,
            "content": content,
            "status": "finished_successfully",
            "end_turn": True,
            "weight": 1.0,
            "metadata": more.pop("metadata", {}),
            "recipient": more.pop("recipient", "all"),
            "channel": None,
        }
    return name, {"id": name, "message": message, "parent": parent, "children": []}


def chatgpt_conversation(chat: str = "68b0-c1", **more: Any) -> dict[str, Any]:
    """A voice chat with images, tools, a branch, hidden and null nodes."""
    voice = [
        {
            "content_type": "audio_transcription",
            "text": "My dog is called Rex.",
            "direction": "in",
            "decoding_id": None,
        },
        {
            "content_type": "real_time_user_audio_video_asset_pointer",
            "frames_asset_pointers": [],
            "video_container_asset_pointer": None,
            "audio_asset_pointer": {
                "content_type": "audio_asset_pointer",
                "asset_pointer": "sediment://file_00000000a3bc",
                "size_bytes": 729198,
                "format": "wav",
                "metadata": {"start": 0.0, "end": 15.19},
            },
            "audio_start_timestamp": 0.5,
        },
    ]
    image = [
        {
            "content_type": "image_asset_pointer",
            "asset_pointer": "sediment://file_1",
            "size_bytes": 1,
            "width": 400,
            "height": 300,
            "metadata": None,
        },
        "Ich wohne in Zürich. 我喜欢茶。",
        None,
    ]
    mapping = dict(
        [
            node("root", None),
            node(
                "sys",
                "root",
                "system",
                [""],
                metadata={"is_visually_hidden_from_conversation": True},
            ),
            node(
                "custom",
                "sys",
                "user",
                content={
                    "content_type": "user_editable_context",
                    "user_profile": "I am a nurse.",
                    "user_instructions": "Be brief.",
                },
                metadata={"is_visually_hidden_from_conversation": True},
            ),
            node("q1", "custom", "user", ["I live in Paris. My cat is called Miso."], at=T0 + 1),
            node("a1-old", "q1", "assistant", ["I live in a data centre, too."], at=T0 + 2),
            node("a1", "q1", "assistant", ["You are a pilot. A fine city!"], at=T0 + 3),
            node(
                "call",
                "a1",
                "assistant",
                content={"content_type": "code", "language": "python", "text": "print(1)"},
                recipient="python",
            ),
            node("tool", "call", "tool", ["1"], tool="python"),
            node("q2", "tool", "user", voice, content_type="multimodal_text", at=T0 + 4),
            node(
                "think",
                "q2",
                "assistant",
                content={
                    "content_type": "thoughts",
                    "thoughts": [{"summary": "s", "content": "c"}],
                },
            ),
            node("a2", "think", "assistant", ["Rex it is."], at=T0 + 5),
            node("q3", "a2", "user", image, content_type="multimodal_text", at=T0 + 6),
            node("empty", "q3", "assistant", [""], at=T0 + 7),
        ]
    )
    mapping["null"] = None  # type: ignore[assignment]
    return {
        "title": "Möwen & 猫",
        "create_time": T0,
        "update_time": T0 + 9,
        "mapping": mapping,
        "moderation_results": [],
        "current_node": "empty",
        "conversation_id": chat,
        "id": chat,
        "default_model_slug": "gpt-5",
        "is_archived": False,
        "is_do_not_remember": False,
        **more,
    }


def claude_conversation(chat: str = "9a1f-c1") -> dict[str, Any]:
    def message(uuid: str, sender: str, text: str, **more: Any) -> dict[str, Any]:
        blocks = more.pop("content", None)
        return {
            "uuid": uuid,
            "text": text,
            "content": blocks
            if blocks is not None
            else [
                {
                    "start_timestamp": None,
                    "stop_timestamp": None,
                    "flags": None,
                    "type": "text",
                    "text": text,
                    "citations": [],
                }
            ],
            "sender": sender,
            "created_at": more.pop("at", "2025-05-01T10:00:00.123456Z"),
            "updated_at": "2025-05-01T10:00:00.123456Z",
            "attachments": more.pop("attachments", []),
            "files": more.pop("files", []),
            **more,
        }

    tools = [
        {"type": "thinking", "thinking": "The user is a pilot.", "signature": "x"},
        {"type": "text", "text": "Félicitations!", "citations": []},
        {"type": "tool_use", "name": "web_search", "input": {"query": "q"}},
        {"type": "tool_result", "name": "web_search", "content": [{"type": "text", "text": "r"}]},
        None,
    ]
    letter = {
        "file_name": "lettre.txt",
        "file_size": 20,
        "file_type": "txt",
        "extracted_content": "Cher Émile, la clef est sous le pot.",
    }
    return {
        "uuid": chat,
        "name": "Déménagement",
        "summary": "",
        "created_at": "2025-05-01T10:00:00.123456Z",
        "updated_at": "2025-05-01T10:00:00.123456Z",
        "account": {"uuid": "acc-1"},
        "chat_messages": [
            message(
                "m1", "human", "I moved to Lyon. My sister is called Anaïs.", attachments=[letter]
            ),
            message("m2", "assistant", "This block is not supported.", content=tools),
            message(
                "m3",
                "human",
                "Where is the key?",
                content=[],
                at="2025-05-01T10:01:00Z",
                files=[{"file_name": "photo.png"}, {"file_name": "lettre.txt"}],
                attachments=[{"file_name": "scan.pdf", "file_size": 9, "extracted_content": ""}],
            ),
            message("m4", "assistant", "", content=[]),
        ],
    }


CLAUDE_PROJECTS = [
    {
        "uuid": "p-1",
        "name": "Thèse",
        "description": "",
        "is_private": True,
        "is_starter_project": False,
        "prompt_template": "Answer in French.",
        "created_at": "2025-01-01T00:00:00Z",
        "updated_at": "2025-01-01T00:00:00Z",
        "creator": {"uuid": "acc-1", "full_name": "A"},
        "docs": [
            {
                "uuid": "d-1",
                "filename": "plan.md",
                "content": "# Plan\n\nChapitre 1",
                "created_at": "x",
            },
            {"uuid": "d-2", "filename": "leer.md", "content": ""},
            None,
        ],
    }
]

MEM0_ALL = {
    "results": [
        {
            "id": "mem-1",
            "memory": "Lives in Berlin",
            "hash": "a1",
            "metadata": {"category": "home"},
            "created_at": "2024-07-01T10:00:00-07:00",
            "updated_at": "2024-08-01T10:00:00-07:00",
            "user_id": "alice",
        },
        {
            "id": "mem-2",
            "memory": "喜欢绿茶",
            "hash": "a2",
            "metadata": None,
            "created_at": "2024-07-02T10:00:00+00:00",
            "updated_at": None,
            "user_id": "alice",
            "run_id": "run-7",
            "categories": ["food"],
            "expiration_date": "2024-12-31",
        },
        {"id": "mem-3", "memory": "", "user_id": "alice"},
        {"id": "mem-4", "memory": "Said it is a bot", "role": "assistant", "user_id": "alice"},
        {"id": "mem-5", "entities": []},
    ]
}
MEM0_HISTORY = [
    {
        "id": "h0",
        "memory_id": "mem-1",
        "old_memory": None,
        "new_memory": "Lives in Paris",
        "event": "ADD",
        "created_at": "2024-07-01T10:00:00-07:00",
        "updated_at": None,
        "is_deleted": 0,
        "actor_id": None,
        "role": "user",
    },
    {
        "id": "h1",
        "memory_id": "mem-1",
        "old_memory": "Lives in Paris",
        "new_memory": "Lives in Berlin",
        "event": "UPDATE",
        "created_at": "2024-07-01T10:00:00-07:00",
        "updated_at": "2024-08-01T10:00:00-07:00",
        "is_deleted": 0,
        "actor_id": None,
        "role": "user",
    },
    {
        "id": "h2",
        "memory_id": "mem-9",
        "old_memory": "A secret",
        "new_memory": None,
        "event": "DELETE",
        "created_at": "2024-07-01T10:00:00-07:00",
        "updated_at": "2024-09-01T10:00:00-07:00",
        "is_deleted": 1,
        "actor_id": None,
        "role": None,
    },
]


def memos_item(number: int, memory: str, **metadata: Any) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-4000-8000-{number:012d}",
        "memory": memory,
        "metadata": {
            "user_id": "alice",
            "session_id": "s-1",
            "status": "activated",
            "type": "fact",
            "key": "k",
            "confidence": 99.0,
            "tags": ["t"],
            "visibility": "private",
            "updated_at": "2025-07-02T00:00:00",
            "memory_type": "LongTermMemory",
            "sources": [
                {"type": "chat", "role": "user", "chat_time": "2025-07-01T09:00:00", "content": "c"}
            ],
            "embedding": [0.1, 0.2],
            "created_at": "2025-07-01T10:00:00",
            "usage": [],
            "background": "",
            **metadata,
        },
    }


def memos_tree() -> dict[str, Any]:
    nodes = [
        memos_item(1, "Alice lives in Lisbon."),
        memos_item(2, "Alice lives in Lisbon.", memory_type="WorkingMemory"),
        memos_item(
            3,
            "アリスは紅茶が好きです。",
            type="opinion",
            history=[
                {
                    "version": 1,
                    "is_fast": False,
                    "memory": "アリスはコーヒーが好きです。",
                    "update_type": "conflict",
                    "created_at": "2025-06-01T00:00:00",
                },
                {"version": 2, "memory": "アリスは紅茶が好き", "update_type": "extract"},
            ],
        ),
        memos_item(4, "Old job at Acme.", status="archived"),
        memos_item(5, "Forget this.", status="deleted"),
        memos_item(6, "Weather of today.", memory_type="OuterMemory"),
        memos_item(7, "The assistant likes chess.", sources=['{"role": "assistant"}']),
        memos_item(8, "How to brew tea.", memory_type="SkillMemory"),
        {"id": "broken", "memory": 7},
    ]
    return {"nodes": nodes, "edges": [{"source": "a", "target": "b", "type": "PARENT"}]}


def memos_vectors() -> list[dict[str, Any]]:
    items = [memos_item(1, "Alice has a bike.", memory_type=None, sources=None)]
    return [{"id": each["id"], "vector": [0.1], "payload": each, "score": None} for each in items]


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    return path


def write_zip(path: Path, members: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False)
            made.writestr(name, data)
    return path


def chatgpt_zip(path: Path, *conversations: Any) -> Path:
    return write_zip(
        path,
        {
            "conversations.json": list(conversations) or [chatgpt_conversation()],
            "user.json": {"id": "user-1", "email": "a@example.org"},
            "chat.html": b"<html>",
            "file-1-photo.png": b"\x89PNG",
        },
    )


def claude_zip(path: Path) -> Path:
    return write_zip(
        path,
        {
            "conversations.json": [claude_conversation()],
            "projects.json": CLAUDE_PROJECTS,
            "users.json": [{"uuid": "acc-1", "full_name": "A", "email_address": "a@example.org"}],
            "memories.json": [{"conversations_memory": "The user is a pilot."}],
        },
    )
