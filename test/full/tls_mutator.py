"""A TLS client of tlslite-ng that changes what it says, and believes in it: the changed bytes are in
its transcript too, so that it comes further than the hello. Arguments: host, port, seconds, seed.
Prints one line of JSON when it ends, and stops at once when nobody listens any more."""

import json
import random
import socket
import sys
import time

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.errors import TLSError
from tlslite.messages import Message

CURVES = {"x25519": "x25519", "secp256r1": "secp256r1", "secp384r1": "secp384r1"}
HANDSHAKE, CLIENT_HELLO, KEY_SHARE = 22, 1, 51
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
WAIT = 20


class Changing(TLSConnection):
    """A connection whose messages go through `change`, and leave in records of odd sizes."""

    change = staticmethod(lambda kind, data: [(kind, data)])
    sizes = None

    def _sendMsg(self, msg, randomizeFirstBlock=True, update_hashes=True):
        for kind, data in self.change(msg.contentType, bytearray(msg.write())):
            if update_hashes and kind == HANDSHAKE:
                self._handshake_hash.update(data)
            while True:
                size = self.sizes() if self.sizes and kind == HANDSHAKE else 16384
                piece, data = data[:size], data[size:]
                for result in self._sendMsgThroughSocket(Message(kind, piece)):
                    yield result
                if not data:
                    break


def flip(chance, data):
    """Some bits are others."""
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def resize(chance, data):
    """Bytes are missing, doubled or new; the length of the message may be mended."""
    at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    with_ = chance.choice((b"", data[at:end] * 2, chance.randbytes(chance.choice((1, 2, 40, 400)))))
    data = data[:at] + with_ + data[end:]
    if chance.random() < 0.8 and len(data) >= 4:
        data[1:4] = (len(data) - 4).to_bytes(3, "big")
    return data


def share(chance, data):
    """The key share of a hello is no point."""
    at = 4 + 34
    at += 1 + data[at]
    at += 2 + int.from_bytes(data[at:at + 2], "big")
    at += 1 + data[at]
    all_ = at
    at += 2
    while at + 4 <= len(data):
        kind, size = (int.from_bytes(data[i:i + 2], "big") for i in (at, at + 2))
        if kind == KEY_SHARE and size > 6:
            old = int.from_bytes(data[at + 8:at + 10], "big")
            new = chance.choice((0, 1, old - 1, old + 1, old, old, old))
            point = chance.choice((bytes(new), b"\xff" * new, chance.randbytes(new), b"\x04" + bytes(max(0, new - 1))))[:new]
            data[at + 10:at + 10 + old] = point
            for place in (at + 8, at + 4, at + 2, all_):
                value = int.from_bytes(data[place:place + 2], "big") + new - old
                data[place:place + 2] = max(0, value).to_bytes(2, "big")
            data[1:4] = (len(data) - 4).to_bytes(3, "big")
            return data
        at += 4 + size
    return data


def changer(chance, log):
    """What is done to each message of a connection, once or more often."""
    target = chance.randrange(5)
    seen = [0]

    def change(kind, data):
        seen[0] += 1
        if seen[0] - 1 != target and chance.random() > 0.1:
            return [(kind, data)]
        if not data:
            return [(kind, data)]
        log.append(kind)
        if kind == HANDSHAKE and data[0] == CLIENT_HELLO and chance.random() < 0.4:
            try:
                return [(kind, share(chance, bytearray(data)))]
            except (IndexError, ValueError, OverflowError):
                return [(kind, data)]
        how = chance.randrange(8)
        if how < 3:
            return [(kind, flip(chance, data))]
        if how < 5:
            return [(kind, resize(chance, data))]
        odd = (chance.choice((20, 21, 22, 22, 23, 24)), bytearray(chance.randbytes(chance.choice((1, 2, 3, 5, 40)))))
        if how == 5:
            return [odd, (kind, data)]
        if how == 6:
            return [(kind, data), odd]
        return chance.choice(([], [(kind, data), (kind, data)], [(odd[0], data)]))

    return change


def settings_of(chance):
    """A version, and the curves in some order, not all with a share: then there is a retry."""
    settings = HandshakeSettings()
    version = chance.choice(((3, 3), (3, 4)))
    settings.minVersion = settings.maxVersion = version
    curves = list(CURVES)
    chance.shuffle(curves)
    settings.eccCurves = curves
    settings.keyShares = curves[:chance.choice((0, 1, 1, 3))]
    return settings


def one(host, port, chance, counts):
    """One connection. Raises AssertionError when one that was all right did not work."""
    good = chance.random() < 0.3
    sock = socket.create_connection((host, port), timeout=WAIT)
    log = []
    connection = Changing(sock)
    if chance.random() < 0.6:
        connection.sizes = chance.choice((lambda: 1, lambda: 2, lambda: 3, lambda: chance.choice((1, 3, 4, 5, 90))))
    if not good:
        connection.change = changer(chance, log)
    good = good or not log
    began = time.monotonic()
    try:
        connection.handshakeClientCert(settings=settings_of(chance))
        if connection.version == (3, 4) and chance.random() < 0.5:
            for _ in connection.send_keyupdate_request(chance.randrange(2)):
                pass
        connection.sendall(REQUEST)
        answer = bytes(connection.recv(1000))
        counts["answers"] += answer.startswith(b"HTTP/1.1 200")
        failed = None if answer.startswith(b"HTTP/1.1") else "no answer"
    except (TLSError, OSError, ValueError, IndexError, AssertionError, AttributeError, TypeError, KeyError, SyntaxError) as error:
        failed = repr(error)
    finally:
        sock.close()
    counts["slow"] += time.monotonic() - began >= WAIT
    if failed and not log:
        raise AssertionError(failed)
    counts["changed" if log else "good"] += 1


def main():
    host, port, seconds, seed = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    counts = {"good": 0, "changed": 0, "answers": 0, "slow": 0, "wrong": []}
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(counts["wrong"]) < 10:
        try:
            one(host, port, chance, counts)
        except ConnectionRefusedError:
            counts["wrong"].append("nobody listens")
            break
        except AssertionError as error:
            counts["wrong"].append(str(error))
    print(json.dumps(counts))


main()
