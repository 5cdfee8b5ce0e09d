"""Words: what names of tables and columns, roles and states tell. The one place to teach a new word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

Weights = dict[str, float]


def listed(text: str) -> frozenset[str]:
    """Words as a set."""
    return frozenset(text.split())


def _weights(text: str) -> Weights:
    """`a b:0.8` as {"a": 1.0, "b": 0.8}; each `:n` is of its own word alone."""
    pairs = (word.partition(":") for word in text.split())
    return {word: float(weight or 1) for word, _, weight in pairs}


CONVERSATION = _weights(
    "conversation conv:.95 convo:.95 thread:.95 chat:.9 session:.9 dialog:.9 dialogue:.9 discussion:.85 channel:.85 "
    "room:.85 ticket:.85 context:.8 topic:.7 issue:.7 case:.6 group:.5 inbox:.4 forum:.5 jid:.5 key:.25 peer:.4 "
    "agent:.3 "
    "workspace:.35 project:.3 flow:.25 run:.25 gespräch gespraech unterhaltung sitzung:.9 kanal:.8 vorgang:.6 会话 "
    "对话 聊天:.9 频道:.8 工单:.8 群:.6 "
    "conversacion conversación sesion:.8 fil:.5 スレッド:.9 会話"
)
MESSAGE = _weights(
    "message msg chat:.6 event:.5 comment:.8 reply:.8 post:.7 step:.6 turn:.8 response:.6 utterance:.9 entry:.4 "
    "log:.25 "
    "history:.5 item:.4 note:.5 communication:.6 followup:.8 journal:.35 mail:.6 interaction:.7 exchange:.6 qa:.6 "
    "prompt:.5 transcript:.7 line:.3 record:.2 nachricht beitrag:.8 antwort:.7 kommentar:.8 mitteilung:.9 消息 信息:.8 "
    "留言:.9 回复:.8 mensaje メッセージ dialogue:.5 update:.2"
)
TASK = _weights(
    "task job run:.9 workflow:.85 execution:.9 invocation:.6 process:.5 operation:.6 request:.35 action:.35 flow:.5 "
    "pipeline:.6 build:.5 work:.4 aufgabe auftrag:.9 任务 作业:.9 tarea tâche tache taskmeta taskresult "
    "generation:.4 タスク"
)
OWNER = _weights(
    "wallet pubkey publickey owner user:.95 uid:.8 account:.85 customer:.85 client:.7 member:.7 principal:.9 sub:.7 "
    "identifier:.8 creator:.75 requester:.9 reporter:.8 participant:.7 recipient:.7 author:.6 sender:.55 from:.4 "
    "tenant:.5 profile:.5 person:.6 email:.6 login:.75 username:.85 identity:.8 identities:.8 visitor:.75 guest:.6 "
    "subscriber:.75 created:.3 address:.45 contact:.6 handle:.5 peer:.5 assignee:.2 besitzer eigentümer eigentuemer "
    "benutzer:.95 nutzer:.95 kunde:.85 kunden:.85 mitglied:.7 verfasser:.6 absender:.55 用户:.95 用戶:.95 钱包 "
    "所有者 客户:.85 usuario:.95 "
    "utilisateur:.95 ユーザー:.95 cliente:.8 patient:.7 student:.7"
)
NOT_OWNER = _weights(
    "agent message messages msg prompt input text count type role status state ip avatar image img at date time ts "
    "rating "
    "flag is has token tokens settings setting data metadata feedback language lang url version model password hash "
    "secret key title subject content body output reply assistant bot system tool app config preference preferences "
    "browser device color index order limit"
)
ROLE = _weights(
    "role rolle 角色 author:.7 sender:.75 speaker:.9 type:.6 kind:.55 source:.55 direction:.7 from:.6 sendertype "
    "authortype actor:.6 party:.5 participant:.5 origin:.5 typ:.6 side:.5 absender:.7 rol name:.25 who:.6 von:.5"
)
CONTENT = _weights(
    "content text:.95 body:.95 message:.9 msg:.85 parts:.95 utterance:.95 comment:.85 note:.7 output:.75 reply:.75 "
    "answer:.7 description:.45 data:.35 payload:.4 value:.35 inhalt nachricht:.9 textinhalt:.95 内容 消息:.9 正文 "
    "contenido mensaje:.9 texto:.95 contenu prompt:.5 response:.6 html:.5 markdown:.6 txt:.85 nachrichtentext:.95 "
    "beitrag:.7 文本:.9 said:.6 transcript:.6 本文:.9 plaintext:.6 line:.4 summary:.2 raw:.3"
)
PROMPT = _weights(
    "prompt question query:.9 input:.8 request:.8 human:.9 user:.7 instruction:.7 frage ask:.8 问题 提问 q:.5 pregunta"
)
REPLY = _weights(
    "response answer reply output:.8 completion ai:.8 assistant:.8 bot:.8 result:.6 antwort 回答 答案 respuesta a:.4"
)
STATE = _weights("state status:.98 zustand stand:.4 状态 phase:.7 stage:.5 estado statut lifecycle:.5 outcome:.4")
STATUS_MESSAGE = _weights(
    "message:.8 statusmessage answer:.85 result:.6 output:.75 content:.8 error:.4 summary:.5 reason:.5 detail:.5 "
    "details:.4 "
    "text:.6 meldung:.8 ergebnis:.6 response:.7 progress:.35 结果:.6 notes:.3"
)
HISTORY = _weights(
    "history messages:.95 log:.5 logs:.5 transcript:.8 turns:.8 verlauf:.9 events:.5 conversation:.5 历史 chat:.4"
)
ARTIFACTS = _weights(
    "artifacts artifact:.9 outputs:.7 files:.5 attachments:.5 results:.6 documents:.4 artefakte 产物 产出"
)
TITLE = _weights(
    "title name:.8 subject:.95 topic:.8 label:.7 titel betreff:.9 bezeichnung:.7 标题 主题:.9 titulo titre summary:.4 "
    "displayname:.8 description:.25"
)
STAMP = _weights(
    "updated last:.5 modified:.95 changed:.9 timestamp:.9 done:.7 finished:.7 ended:.6 completed:.6 date:.5 time:.5 "
    "at:.3 "
    "geändert:.9 geaendert:.9 aktualisiert:.95 zeit:.5 更新 时间:.5 created:.35 ts:.5 erstellt:.35 started:.4"
)
IDENTITY = _weights(
    "wallet pubkey publickey address:.9 identifier:.95 username:.85 login:.85 handle:.7 sub:.9 uid:.8 external:.75 "
    "nickname:.5 benutzername:.85 anmeldename:.8 name:.45 email:.6 mail:.55 用户名:.85 uuid:.6 key:.3"
)
ASIDE = listed(
    "attachment attachments vote reaction receipt read feedback tag index fts migration alembic embedding version "
    "draft "
    "template setting config pin mention usage audit metadata schema fragment file document cache token permission "
    "role "
    "preference archive backup deleted old queue search vector chunk notification element tool model state "
    "statistic stat "
    "stats daily summary anhang historie anlage log logs setting"
)
"""What stands in the names of tables beside the messages: parts of them, or kept for another purpose."""

_SINGULAR = {"identities", "status", "address", "canvas", "alias", "process", "success", "access", "sms", "dms", "news",
             "messages", "parts", "artifacts", "outputs", "results", "files", "logs", "turns", "events", "has", "is",
             "tokens", "settings", "details", "notes", "was", "documents", "preferences"}  # fmt: skip
_CAMEL = re.compile(r"(?<=[a-zà-ÿ0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^0-9A-Za-zÀ-ɏ\u3040-\u9fff]+")


@lru_cache(4096)
def tokens_of(name: str) -> tuple[str, ...]:
    """The words of a name: `threadId`, `thread_id` and `threadid` are all ("thread", "id")."""
    words: list[str] = []
    for part in _CAMEL.split(name):
        word = part.lower()
        if not word:
            continue
        if word.endswith("id") and len(word) > 4 and singular(word[:-2]) in _KNOWN and word not in _KNOWN:
            words += [word[:-2], "id"]
        else:
            words.append(word)
    return tuple(words)


def singular(word: str) -> str:
    """A word without its plural ending, as far as English goes."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def weight(name: str, words: Weights) -> float:
    """How much a name speaks for a concept, 0 to 1: its best word, a little less among others."""
    tokens = tokens_of(name)
    found = max((_of_token(token, words) for token in tokens), default=0.0)
    joined = "".join(tokens)
    found = max(found, words.get(joined, 0.0))
    extra = len([token for token in tokens if token not in ("id", "uuid", "the") and not _of_token(token, words)])
    return found * (1 - 0.06 * min(extra, 4))


def _of_token(token: str, words: Weights) -> float:
    best = max(words.get(token, 0.0), 0.98 * words.get(singular(token), 0.0))
    if not best and not token.isascii():
        best = max((value for word, value in words.items() if not word.isascii() and word in token), default=0.0)
    if not best and len(token) > 5:
        best = max(
            (0.8 * value for word, value in words.items() if len(word) > 3 and token.startswith(word)), default=0.0
        )
        best = max([best, *(0.8 * value for word, value in words.items() if len(word) > 4 and token.endswith(word))])
    return best


_KNOWN = {
    word for words in (CONVERSATION, MESSAGE, TASK, OWNER, ROLE, STATE) for word in words
} | {"parent", "event", "agent", "flow", "chatflow", "project", "team"}  # fmt: skip


def is_id(name: str) -> bool:
    """Whether a name ends as names of ids do."""
    tokens = tokens_of(name)
    return bool(tokens) and (
        tokens[-1] in ("id", "uuid", "guid", "key", "pk", "nr", "no", "编号", "号") or name.endswith(("编号", "ID"))
    )


# -- roles

USER_ROLES = listed(
    "user human customer client me visitor requester end-user enduser guest nutzer benutzer kunde person incoming "
    "inbound "
    "member caller sender question 用户 客户 usuario client-user student patient"
)
AGENT_ROLES = listed(
    "assistant ai agent model bot system-bot support staff operator api chatbot gpt llm outgoing outbound responder "
    "assistent ki helfer reply answer 助手 机器人 客服 asistente employee admin mitarbeiter"
)
OTHER_ROLES = listed("system tool function developer internal notification moderator")
_ROLE_ALIAS = {
    "human": "user", "ai": "assistant", "user-message": "user", "assistant-message": "assistant",
    "usermessage": "user", "apimessage": "assistant", "humanmessage": "user", "aimessage": "assistant",
    "human-message": "user", "ai-message": "assistant", "agent-message": "agent", "bot-message": "bot",
    "aimessagechunk": "assistant", "role-user": "user", "role-agent": "agent", "role-assistant": "assistant",
    "systemmessage": "system", "system-message": "system", "toolmessage": "tool", "tool-message": "tool",
    "bot-reply": "bot", "user-input": "user",
}  # fmt: skip


def plain(word: object) -> str:
    """A role or state in one spelling: lower case, dashes."""
    text = (
        re.sub(r"(?<=[a-z])(?=[A-Z])", "-", str(word).strip()) if str(word) != str(word).upper() else str(word).strip()
    )
    return re.sub(r"[\s_-]+", "-", text.lower())


def role_of(word: object) -> str | None:
    """The role that a value names, in the words of clients; None if it is none."""
    text = plain(word)
    for spelling in (text, text.replace("-", "")):
        if spelling in _ROLE_ALIAS:
            return _ROLE_ALIAS[spelling]
    known = USER_ROLES | AGENT_ROLES | OTHER_ROLES
    return text if text in known else None


def is_speaker(role: str) -> bool:
    """Whether a role is one of the two who talk."""
    return role in USER_ROLES or role in AGENT_ROLES


# -- states

A2A_STATES = listed("submitted working input-required completed canceled failed rejected auth-required unknown")
STATE_ALIAS = {
    "pending": "submitted", "queued": "submitted", "created": "submitted", "received": "submitted",
    "scheduled": "submitted",
    "new": "submitted", "enqueued": "submitted", "waiting": "submitted", "ready": "submitted", "delayed": "submitted",
    "started": "working", "running": "working", "in-progress": "working", "progress": "working",
    "processing": "working",
    "active": "working", "retry": "working", "retrying": "working", "executing": "working", "paused": "input-required",
    "success": "completed", "succeeded": "completed", "successful": "completed", "done": "completed",
    "finished": "completed", "complete": "completed", "ok": "completed",
    "failure": "failed", "error": "failed", "errored": "failed", "crashed": "failed", "timeout": "failed",
    "timed-out": "failed", "max-recovery-attempts-exceeded": "failed", "upstream-failed": "failed",
    "revoked": "canceled", "cancelled": "canceled", "aborted": "canceled", "killed": "canceled", "skipped": "canceled",
    "cancelling": "working", "stopped": "canceled", "ignored": "canceled", "idle": "working",
    "wartend": "submitted", "offen": "submitted", "läuft": "working", "laeuft": "working", "in-arbeit": "working",
    "fertig": "completed", "erledigt": "completed", "abgeschlossen": "completed", "fehlgeschlagen": "failed",
    "fehler": "failed", "abgebrochen": "canceled", "neu": "submitted",
    "待处理": "submitted", "运行中": "working", "进行中": "working", "处理中": "working", "已完成": "completed",
    "完成": "completed",
    "失败": "failed", "已取消": "canceled",
}  # fmt: skip


def bare_state(word: object) -> str:
    """A state without the name of its enumeration: TASK_STATE_WORKING is working."""
    text = plain(word)
    for prefix in ("task-state-", "taskstate.", "task-status-", "state-", "status-", "runstatus."):
        text = text.removeprefix(prefix)
    return text


def is_state(word: object) -> bool:
    """Whether a value names a state of a task."""
    text = bare_state(word)
    return text in A2A_STATES or text in STATE_ALIAS


def share(values: Iterable[bool]) -> float:
    """How many of them hold, 0 to 1; 0 for none at all."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
