"""A client of presence on a library for Python: client.py LIBRARY URL CA TOKEN USERS.

Says in lines of JSON what comes, for clients.test.js; CA is a file, or empty for ws://.
"""
import asyncio
import json
import ssl
import sys


def say(**what):
    print(json.dumps(what), flush=True)


class Story:
    """What is asked and told on one connection, whoever carries it."""

    def __init__(self, users):
        self.users = users
        self.following = 0

    def answer(self, text):
        """What to send when this came, or None."""
        if text == 'pong':
            say(got='pong')
            return json.dumps({'type': 'watch', 'users': self.users})
        message = json.loads(text)
        if message['type'] == 'hello':
            say(got='hello', user_id=message['user_id'])
            return 'ping'
        if message['type'] == 'snapshot':
            self.following += len(message['users'])
            if not message.get('more'):
                say(got='snapshot', users=self.following)
        if message['type'] == 'presence':
            for user in message['users']:
                say(got='presence', user_id=user['user_id'], online=user['online'])
        return None


async def with_websockets(url, context, options, story):
    import websockets
    from websockets.asyncio.client import connect
    try:
        async with connect(url, ssl=context, **options) as socket:
            try:
                while True:
                    answer = story.answer(await socket.recv())
                    if answer:
                        await socket.send(answer)
            except websockets.exceptions.ConnectionClosed as closed:
                frame = closed.rcvd
                say(got='closed', code=frame.code if frame else 1006, reason=frame.reason if frame else '')
    except websockets.exceptions.InvalidStatus as refused:
        say(got='refused', status=refused.response.status_code)


async def with_aiohttp(url, context, options, story):
    import aiohttp
    headers = options.get('additional_headers')
    protocols = options.get('subprotocols', ())
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(url, ssl=context or True, headers=headers,
                                          protocols=protocols) as socket:
                while True:
                    message = await socket.receive()
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        break
                    answer = story.answer(message.data)
                    if answer:
                        await socket.send_str(answer)
                told = message.type is aiohttp.WSMsgType.CLOSE
                # what it says of the whole end, over TLS too: see tls-ends.test.js
                say(got='closed', code=socket.close_code, reason=message.extra if told else '')
        except aiohttp.WSServerHandshakeError as refused:
            say(got='refused', status=refused.status)


async def main():
    library, url, ca, token, users = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca) if ca else None
    carry = {'websockets': with_websockets, 'aiohttp': with_aiohttp}[library]
    await carry(url, context, {'additional_headers': {'Authorization': 'Bearer ' + token}}, Story(users.split(',')))
    await carry(url, context, {'additional_headers': {'Authorization': 'Bearer x'}}, Story([]))
    await carry(url, context, {'subprotocols': ['presence.v1', 'token.x']}, Story([]))


asyncio.run(main())
