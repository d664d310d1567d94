"""What the POP3 server says to people, in five languages (RFC 6856 section 3), and the codes of its failures.

`TEXTS` has every text by a key; all languages have the same keys and the same places for values, a test holds that.
`CODES` has every failure, with the response code that programs read (RFC 2449 section 8, RFC 3206, RFC 6856 section 5),
or none where none fits: a mistake of the client has no code.  `Reply` joins a key with its values, and becomes a line
when somebody knows the language of the session.

Before LANG every text is English and ASCII, as RFC 1939 wants.  After LANG the texts are UTF-8, whether UTF8 was said
or not: RFC 6856 section 3.2 makes the one independent of the other.  Whatever stands in the text only (numbers, for
example) may be translated; what a program reads is `Reply.data`, the same in every language.
"""

# ruff: noqa: RUF001 (Chinese has its own punctuation)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailsvc.errors import MailsvcError

DEFAULT = "en"
"""The language of a session before LANG."""

LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "de": "Deutsch",
    "fr": "Français",
    "es": "Español",
    "zh": "中文",
}
"""The language tags with their names in the language itself."""

CODES: Mapping[str, str] = {
    # RFC 2449 section 8.1.1 and 8.1.2
    "in_use": "IN-USE",
    "sessions": "IN-USE",
    "login_delay": "LOGIN-DELAY",
    # RFC 3206: who logs in is refused, or something of ours does not work
    "wrong_login": "AUTH",
    "acting": "AUTH",
    "binding": "AUTH",
    "no_login": "SYS/TEMP",
    "trouble": "SYS/TEMP",
    "stopping": "SYS/TEMP",
    "unread": "SYS/TEMP",
    "not_removed": "SYS/TEMP",
    "commands": "SYS/TEMP",
    "gone": "SYS/PERM",
    # AUTH would say it better, but is for commands that log in only (RFC 3206 section 5)
    "login_ended": "SYS/PERM",
    # RFC 6856 section 5
    "needs_utf8": "UTF8",
    # mistakes of the client
    "argument_count": "",
    "argument_one": "",
    "argument_many": "",
    "bare_line_feed": "",
    "cancelled": "",
    "deleted": "",
    "injected": "",
    "line_too_long": "",
    "lines_needed": "",
    "log_in_first": "",
    "logged_in": "",
    "malformed_auth": "",
    "mechanism": "",
    "no_language": "",
    "no_message": "",
    "no_name": "",
    "number_needed": "",
    "stls_first": "",
    "tls_active": "",
    "unknown": "",
    "user_first": "",
}
"""Every failure, with its response code or "" where a program has nothing to learn from one."""

_EN = {
    "ready": "{hostname} POP3 ready",
    "capabilities": "capabilities follow",
    "mechanisms": "mechanisms follow",
    "languages": "languages follow",
    "begin_tls": "begin TLS",
    "bye": "bye",
    "password": "now the password",
    "maildrop": "{messages} messages, {octets} octets",
    "octets": "{octets} octets",
    "top": "top of message follows",
    "message_deleted": "message {number} deleted",
    "utf8": "UTF-8 from now on",
    "language": "English from now on",
    "in_use": "another session has this maildrop open",
    "sessions": "too many sessions of this account",
    "login_delay": "the last login was a short while ago; try again in {seconds} seconds",
    "wrong_login": "the name or the password is wrong",
    "acting": "acting as another identity is not permitted",
    "binding": "the channel binding does not fit this connection",
    "no_login": "login is not possible now; try again later",
    "trouble": "local trouble; try again later",
    "stopping": "the service is shutting down; nothing is deleted",
    "unread": "the message cannot be read now; try again later",
    "not_removed": "some deleted messages are not removed",
    "commands": "too many commands in one session; connect again",
    "gone": "the message is not there any more",
    "login_ended": "the password was changed or revoked meanwhile; nothing more is deleted",
    "needs_utf8": "the message needs UTF-8; say UTF8 before you log in",
    "argument_count": "{verb} takes {count} arguments",
    "argument_one": "{verb} takes 1 argument",
    "argument_many": "too many arguments for {verb}",
    "bare_line_feed": "a line ends with CRLF, not with LF alone",
    "cancelled": "authentication cancelled",
    "deleted": "message {number} is deleted",
    "injected": "data was sent before the TLS handshake; closing",
    "line_too_long": "the line is too long",
    "lines_needed": "a number of lines is needed",
    "log_in_first": "log in first",
    "logged_in": "already logged in",
    "malformed_auth": "the response is malformed",
    "mechanism": "this mechanism is not offered",
    "no_language": "this language is not known",
    "no_message": "no such message, there are {messages}",
    "no_name": "a command begins with its name",
    "number_needed": "a message number is needed",
    "stls_first": "issue STLS first",
    "tls_active": "TLS is active already",
    "unknown": "unknown command",
    "user_first": "send USER first",
}

_DE = {
    "ready": "{hostname} POP3 bereit",
    "capabilities": "Fähigkeiten folgen",
    "mechanisms": "Verfahren folgen",
    "languages": "Sprachen folgen",
    "begin_tls": "TLS kann beginnen",
    "bye": "auf Wiedersehen",
    "password": "nun das Passwort",
    "maildrop": "Nachrichten: {messages}, Oktette: {octets}",
    "octets": "Oktette: {octets}",
    "top": "der Anfang der Nachricht folgt",
    "message_deleted": "Nachricht {number} gelöscht",
    "utf8": "von nun an UTF-8",
    "language": "von nun an Deutsch",
    "in_use": "eine andere Sitzung hat dieses Postfach geöffnet",
    "sessions": "zu viele Sitzungen dieses Kontos",
    "login_delay": "die letzte Anmeldung ist zu kurz her; in {seconds} Sekunden wieder versuchen",
    "wrong_login": "der Name oder das Passwort ist falsch",
    "acting": "unter einem anderen Namen zu handeln ist nicht erlaubt",
    "binding": "die Kanalbindung passt nicht zu dieser Verbindung",
    "no_login": "eine Anmeldung ist jetzt nicht möglich; später wieder versuchen",
    "trouble": "Störung auf dem Server; später wieder versuchen",
    "stopping": "der Dienst wird beendet; nichts ist gelöscht",
    "unread": "die Nachricht kann jetzt nicht gelesen werden; später wieder versuchen",
    "not_removed": "einige gelöschte Nachrichten sind nicht entfernt",
    "commands": "zu viele Befehle in einer Sitzung; neu verbinden",
    "gone": "die Nachricht ist nicht mehr da",
    "login_ended": "das Passwort wurde inzwischen geändert oder widerrufen; nichts weiter ist gelöscht",
    "needs_utf8": "die Nachricht braucht UTF-8; UTF8 vor der Anmeldung senden",
    "argument_count": "{verb} hat {count} Argumente",
    "argument_one": "{verb} hat 1 Argument",
    "argument_many": "zu viele Argumente für {verb}",
    "bare_line_feed": "eine Zeile endet mit CRLF, nicht mit LF allein",
    "cancelled": "Anmeldung abgebrochen",
    "deleted": "Nachricht {number} ist gelöscht",
    "injected": "vor dem TLS-Handshake kamen Daten; die Verbindung endet",
    "line_too_long": "die Zeile ist zu lang",
    "lines_needed": "eine Anzahl von Zeilen wird gebraucht",
    "log_in_first": "zuerst anmelden",
    "logged_in": "bereits angemeldet",
    "malformed_auth": "die Antwort ist fehlerhaft",
    "mechanism": "dieses Verfahren wird nicht angeboten",
    "no_language": "diese Sprache ist nicht bekannt",
    "no_message": "diese Nachricht gibt es nicht, es sind {messages}",
    "no_name": "ein Befehl beginnt mit seinem Namen",
    "number_needed": "die Nummer einer Nachricht wird gebraucht",
    "stls_first": "zuerst STLS senden",
    "tls_active": "TLS ist bereits aktiv",
    "unknown": "unbekannter Befehl",
    "user_first": "zuerst USER senden",
}

_FR = {
    "ready": "{hostname} POP3 prêt",
    "capabilities": "liste des fonctions",
    "mechanisms": "liste des mécanismes",
    "languages": "liste des langues",
    "begin_tls": "TLS peut commencer",
    "bye": "au revoir",
    "password": "maintenant le mot de passe",
    "maildrop": "messages : {messages}, octets : {octets}",
    "octets": "octets : {octets}",
    "top": "voici le début du message",
    "message_deleted": "message {number} effacé",
    "utf8": "UTF-8 désormais",
    "language": "français désormais",
    "in_use": "une autre session a ouvert cette boîte",
    "sessions": "trop de sessions de ce compte",
    "login_delay": "la dernière connexion est trop récente ; réessayez dans {seconds} secondes",
    "wrong_login": "le nom ou le mot de passe est faux",
    "acting": "agir sous une autre identité n'est pas permis",
    "binding": "la liaison au canal ne correspond pas à cette connexion",
    "no_login": "la connexion au compte est impossible maintenant ; réessayez plus tard",
    "trouble": "problème du serveur ; réessayez plus tard",
    "stopping": "le service s'arrête ; rien n'est effacé",
    "unread": "le message ne peut pas être lu maintenant ; réessayez plus tard",
    "not_removed": "certains messages effacés ne sont pas supprimés",
    "commands": "trop de commandes dans une session ; reconnectez-vous",
    "gone": "le message n'est plus là",
    "login_ended": "le mot de passe a été changé ou révoqué entre-temps ; rien de plus n'est effacé",
    "needs_utf8": "le message demande UTF-8 ; envoyez UTF8 avant de vous identifier",
    "argument_count": "{verb} prend {count} arguments",
    "argument_one": "{verb} prend 1 argument",
    "argument_many": "trop d'arguments pour {verb}",
    "bare_line_feed": "une ligne finit par CRLF, pas par LF seul",
    "cancelled": "identification annulée",
    "deleted": "le message {number} est effacé",
    "injected": "des données sont venues avant TLS ; fin de la connexion",
    "line_too_long": "la ligne est trop longue",
    "lines_needed": "il faut un nombre de lignes",
    "log_in_first": "identifiez-vous d'abord",
    "logged_in": "déjà identifié",
    "malformed_auth": "la réponse est mal formée",
    "mechanism": "ce mécanisme n'est pas offert",
    "no_language": "cette langue n'est pas connue",
    "no_message": "ce message n'existe pas, il y en a {messages}",
    "no_name": "une commande commence par son nom",
    "number_needed": "il faut un numéro de message",
    "stls_first": "envoyez d'abord STLS",
    "tls_active": "TLS est déjà actif",
    "unknown": "commande inconnue",
    "user_first": "envoyez d'abord USER",
}

_ES = {
    "ready": "{hostname} POP3 listo",
    "capabilities": "lista de funciones",
    "mechanisms": "lista de mecanismos",
    "languages": "lista de idiomas",
    "begin_tls": "puede empezar TLS",
    "bye": "hasta luego",
    "password": "ahora la contraseña",
    "maildrop": "mensajes: {messages}, octetos: {octets}",
    "octets": "octetos: {octets}",
    "top": "sigue el principio del mensaje",
    "message_deleted": "mensaje {number} borrado",
    "utf8": "UTF-8 desde ahora",
    "language": "español desde ahora",
    "in_use": "otra sesión tiene abierto este buzón",
    "sessions": "demasiadas sesiones de esta cuenta",
    "login_delay": "el último acceso es muy reciente; inténtelo dentro de {seconds} segundos",
    "wrong_login": "el nombre o la contraseña no es correcto",
    "acting": "no se permite actuar con otra identidad",
    "binding": "el enlace al canal no corresponde a esta conexión",
    "no_login": "ahora no es posible el acceso; inténtelo más tarde",
    "trouble": "problema del servidor; inténtelo más tarde",
    "stopping": "el servicio se detiene; no se ha borrado nada",
    "unread": "ahora no se puede leer el mensaje; inténtelo más tarde",
    "not_removed": "algunos mensajes borrados no se han eliminado",
    "commands": "demasiadas órdenes en una sesión; vuelva a conectar",
    "gone": "el mensaje ya no está",
    "login_ended": "la contraseña se ha cambiado o revocado entretanto; no se ha borrado nada más",
    "needs_utf8": "el mensaje necesita UTF-8; envíe UTF8 antes de identificarse",
    "argument_count": "{verb} lleva {count} argumentos",
    "argument_one": "{verb} lleva 1 argumento",
    "argument_many": "demasiados argumentos para {verb}",
    "bare_line_feed": "una línea termina con CRLF, no solo con LF",
    "cancelled": "identificación cancelada",
    "deleted": "el mensaje {number} está borrado",
    "injected": "llegaron datos antes de TLS; fin de la conexión",
    "line_too_long": "la línea es demasiado larga",
    "lines_needed": "hace falta un número de líneas",
    "log_in_first": "primero identifíquese",
    "logged_in": "ya está identificado",
    "malformed_auth": "la respuesta está mal formada",
    "mechanism": "este mecanismo no se ofrece",
    "no_language": "este idioma no es conocido",
    "no_message": "no existe ese mensaje, hay {messages}",
    "no_name": "una orden empieza con su nombre",
    "number_needed": "hace falta un número de mensaje",
    "stls_first": "envíe primero STLS",
    "tls_active": "TLS ya está activo",
    "unknown": "orden desconocida",
    "user_first": "envíe primero USER",
}

_ZH = {
    "ready": "{hostname} POP3 已就绪",
    "capabilities": "功能列表如下",
    "mechanisms": "认证机制如下",
    "languages": "语言列表如下",
    "begin_tls": "请开始 TLS",
    "bye": "再见",
    "password": "请发送密码",
    "maildrop": "{messages} 封邮件，{octets} 字节",
    "octets": "{octets} 字节",
    "top": "邮件开头如下",
    "message_deleted": "邮件 {number} 已删除",
    "utf8": "从现在起使用 UTF-8",
    "language": "从现在起使用中文",
    "in_use": "此邮箱已被另一会话打开",
    "sessions": "此帐户的会话过多",
    "login_delay": "距上次登录时间太短；请在 {seconds} 秒后重试",
    "wrong_login": "用户名或密码错误",
    "acting": "不允许以其他身份操作",
    "binding": "通道绑定与此连接不符",
    "no_login": "目前无法登录；请稍后重试",
    "trouble": "服务器故障；请稍后重试",
    "stopping": "服务正在停止；未删除任何邮件",
    "unread": "目前无法读取邮件；请稍后重试",
    "not_removed": "部分已删除的邮件未能移除",
    "commands": "一次会话中命令过多；请重新连接",
    "gone": "邮件已不存在",
    "login_ended": "密码已被更改或撤销；未再删除邮件",
    "needs_utf8": "此邮件需要 UTF-8；请在登录前发送 UTF8",
    "argument_count": "{verb} 需要 {count} 个参数",
    "argument_one": "{verb} 需要 1 个参数",
    "argument_many": "{verb} 的参数过多",
    "bare_line_feed": "行尾必须是 CRLF，不能只有 LF",
    "cancelled": "认证已取消",
    "deleted": "邮件 {number} 已被删除",
    "injected": "TLS 握手前收到了数据；连接将关闭",
    "line_too_long": "行太长",
    "lines_needed": "需要行数",
    "log_in_first": "请先登录",
    "logged_in": "已经登录",
    "malformed_auth": "回应格式错误",
    "mechanism": "不提供此认证机制",
    "no_language": "未知的语言",
    "no_message": "没有此邮件，共有 {messages} 封",
    "no_name": "命令必须以其名称开头",
    "number_needed": "需要邮件编号",
    "stls_first": "请先发送 STLS",
    "tls_active": "TLS 已经启用",
    "unknown": "未知命令",
    "user_first": "请先发送 USER",
}

TEXTS: Mapping[str, Mapping[str, str]] = {"en": _EN, "de": _DE, "fr": _FR, "es": _ES, "zh": _ZH}
"""Every text by language and key."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One line of the server: a key of `TEXTS` ("" for no text) with its values.

    ``data``: what programs read behind +OK, before the text.  The text is a failure's when its key is one of `CODES`.
    """

    text: str
    values: Mapping[str, object] = field(default_factory=dict)
    data: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the line begins with -ERR."""
        return self.text in CODES

    def line(self, language: str = DEFAULT) -> str:
        """The line in a language, without its end."""
        start = "+OK"
        if self.is_error:
            code = CODES[self.text]
            start = f"-ERR [{code}]" if code else "-ERR"
        words = TEXTS[language][self.text].format(**self.values) if self.text else ""
        return " ".join(filter(None, (start, self.data, words)))


def says(text: str, /, *, data: str = "", **values: object) -> Reply:
    """A `Reply`; ``text`` is a key of `TEXTS`."""
    return Reply(text, values, data)


class Refusal(MailsvcError):
    """A command is refused; ``reply`` says it to the client, ``str(error)`` in English to everybody else."""

    def __init__(self, text: str, /, **values: object) -> None:
        """``text`` is a key of `CODES`."""
        self.reply = Reply(text, values)
        super().__init__(TEXTS[DEFAULT][text].format(**values))


def language_for(wish: str, preferred: str = DEFAULT) -> str | None:
    """The language that a range wants (RFC 6856 section 3.2, lookup of RFC 4647 section 3.4); None for no such one.

    ``preferred`` is what ``*`` stands for.
    """
    if wish == "*":
        return preferred
    parts = wish.lower().split("-")
    while parts:
        tag = "-".join(parts)
        if tag in TEXTS:
            return tag
        parts.pop()
        # RFC 4647 section 3.4: a single letter or digit introduces something, and goes with it.
        if parts and len(parts[-1]) == 1:
            parts.pop()
    return None
