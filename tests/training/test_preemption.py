"""SIGTERM is noticed while asked for, and does what it did before afterwards."""

import os
import signal
import threading

from vlm_mu_jax.training.preemption import notices


def test_sigterm_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with notices() as asked:
        assert not asked(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked(2) and asked(3)
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_checkpoints_the_handler_is_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    with notices(enabled=False) as asked:
        assert signal.getsignal(signal.SIGTERM) is before and not asked(1)


def test_a_thread_cannot_have_a_handler_and_does_without():
    seen = []

    def work():
        with notices() as asked:
            seen.append(asked(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
