"""A mail server for the tests: aiosmtpd, told by lines on standard input how to behave.

It is started with its settings as JSON, says "ready" when it listens, and writes each message that it gets as a line of
JSON. It ends with its standard input, and so with whoever started it.

modes: take      takes everything
       refuse    refuses every recipient for good
       greylist  refuses a recipient the first time, and takes it from then on
       hold      gets a message and does not answer
       cut       gets a message and closes the connection instead of an answer
"""

import asyncio
import email
import email.policy
import json
import os
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

settings = json.loads(sys.argv[1])
mode = settings.get("mode", "take")
password = settings.get("password")
greeted = set()


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if mode == "refuse":
            return "550 5.1.1 No such mailbox here"
        if mode == "greylist" and address not in greeted:
            greeted.add(address)
            return "451 4.7.1 Greylisted, please try again in 1 seconds"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = lambda kind: (lambda it: it and it.get_content().replace("\r\n", "\n"))(message.get_body((kind,)))
        told = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "headers": [[name, str(value)] for name, value in message.items()],
            "text": part("plain"),
            "html": part("html"),
            "defects": [str(defect) for defect in message.defects],
            "tls": session.ssl is not None or settings.get("tls") == "implicit",
            "authenticated": session.authenticated,
        }
        print(json.dumps(told), flush=True)
        if mode == "hold":
            await asyncio.sleep(3600)
        if mode == "cut":
            server.transport.abort()
        return "250 Taken"


def authenticate(server, session, envelope, mechanism, data):
    given = (data.login.decode(), data.password.decode())
    return AuthResult(success=given == ("shop", password), handled=False)


class Server(Controller):
    def factory(self):
        options = {"hostname": "localhost", "ident": "a test"}
        if password is not None:
            options |= {"auth_required": True, "authenticator": authenticate, "auth_require_tls": "tls" in settings}
        if settings.get("tls") == "starttls":
            options |= {"tls_context": context, "require_starttls": True}
        if settings.get("tls") == "implicit":
            options |= {"auth_require_tls": False}
        return SMTP(self.handler, **options)


context = None
if "tls" in settings:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings["certificate"], settings["key"])
implicit = context if settings.get("tls") == "implicit" else None
server = Server(Handler(), hostname="127.0.0.1", port=settings["port"], ssl_context=implicit)
server.start()
print("ready", flush=True)
for line in sys.stdin:
    mode = line.strip()
    print("mode", flush=True)
# Not `stop`, which waits for what hangs on purpose.
os._exit(0)
