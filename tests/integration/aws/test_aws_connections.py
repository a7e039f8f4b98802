"""One connection of the direct transport, over a pair of sockets."""

import socket
import ssl
import threading

import pytest
import trustme

from melange.drivers.aws.direct.http import ClosedBeforeAnswer, HttpConnection

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LARGE = b"x" * 4_000_000


def pair(kind):
    """Return the two ends of a connection."""
    ours, theirs = socket.socketpair()
    if kind == "plain":
        return ours, theirs
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    accepted = []
    thread = threading.Thread(target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True)))
    thread.start()
    ours = client.wrap_socket(ours, server_hostname="localhost")
    thread.join()
    return ours, accepted[0]


@pytest.fixture(params=["plain", "tls"])
def ends(request):
    ours, theirs = pair(request.param)
    with ours, theirs:
        yield ours, theirs


def serve(theirs, length, answer):
    """Read a request of this length in a thread, then answer."""

    def run():
        received = 0
        while received < length:
            received += len(theirs.recv(65_536))
        theirs.sendall(answer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_request_larger_than_all_buffers_is_sent_whole(ends):
    ours, theirs = ends
    connection = HttpConnection(ours, 30.0)
    server = serve(theirs, len(LARGE), ANSWER)

    answer = connection.exchange(LARGE)

    server.join()
    assert answer.body == b"{}"


def test_an_answer_larger_than_one_receive_is_read_whole(ends):
    ours, theirs = ends
    connection = HttpConnection(ours, 30.0)
    server = serve(theirs, 4, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LARGE), LARGE))

    answer = connection.exchange(b"POST")

    server.join()
    assert answer.body == LARGE
    assert answer.keeps_connection
    assert connection.is_usable()


def test_no_answer_ends_at_the_time_limit(ends):
    ours, _ = ends
    connection = HttpConnection(ours, 0.2)

    with pytest.raises(TimeoutError):
        connection.exchange(b"POST")


def test_a_request_that_is_not_taken_ends_at_the_time_limit(ends):
    ours, _ = ends
    connection = HttpConnection(ours, 0.2)

    with pytest.raises(TimeoutError):
        connection.exchange(LARGE)


def tcp_pair():
    """Return the two ends of a TCP connection with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        ours.connect(listening.getsockname())
        theirs, _ = listening.accept()
        return ours, theirs


def test_a_request_that_is_taken_bit_by_bit_ends_at_the_time_limit():
    ours, theirs = tcp_pair()
    is_over = threading.Event()

    def take():
        received = 0
        while received < len(LARGE):
            if is_over.wait(0.05):
                return
            received += len(theirs.recv(200_000))
        theirs.sendall(ANSWER)

    thread = threading.Thread(target=take)
    with ours, theirs:
        connection = HttpConnection(ours, 0.3)
        thread.start()

        with pytest.raises(TimeoutError):
            connection.exchange(LARGE)

        is_over.set()
        thread.join()


def test_an_answer_that_comes_byte_by_byte_ends_at_the_time_limit(ends):
    ours, theirs = ends
    connection = HttpConnection(ours, 0.3)
    is_over = threading.Event()

    def drip():
        for number in range(len(ANSWER)):
            if is_over.wait(0.05):
                return
            theirs.sendall(ANSWER[number : number + 1])

    thread = threading.Thread(target=drip)
    thread.start()

    with pytest.raises(TimeoutError):
        connection.exchange(b"POST")

    is_over.set()
    thread.join()


def test_an_answer_that_stops_in_the_middle_is_not_waited_for_after_the_time_limit():
    receives = []

    class Counted(socket.socket):
        def recv(self, *arguments):
            receives.append(arguments)
            return super().recv(*arguments)

    Counted.__module__ = "socket"  # as a plain socket, which the system lets wait
    ours, theirs = socket.socketpair()
    with Counted(fileno=ours.detach()) as counted, theirs:
        connection = HttpConnection(counted, 0.2)
        server = serve(theirs, 4, ANSWER[:20])

        with pytest.raises(TimeoutError):
            connection.exchange(b"POST")

        server.join()
    assert len(receives) == 1  # a second one would wait as long again


def test_what_comes_after_the_answer_makes_a_connection_unusable(ends):
    ours, theirs = ends
    connection = HttpConnection(ours, 30.0)
    server = serve(theirs, 4, ANSWER)
    connection.exchange(b"POST")
    server.join()
    usable_before = connection.is_usable()

    theirs.sendall(ANSWER)

    assert usable_before
    assert not connection.is_usable()


def test_a_connection_that_the_other_side_closes_has_no_answer(ends):
    ours, theirs = ends
    connection = HttpConnection(ours, 30.0)
    theirs.shutdown(socket.SHUT_RDWR)
    theirs.close()

    with pytest.raises(ClosedBeforeAnswer):
        connection.exchange(b"POST")
