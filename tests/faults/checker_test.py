#!/usr/bin/env python3
"""Why: each invariant is seen to fail on evidence that breaks it, and to hold on evidence that does not. Never starts a server."""

import json
import os
import sys
import tempfile
import time
import unittest
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))

import checker  # noqa: E402
import fault  # noqa: E402
from checker import Verdict  # noqa: E402
from fault import Event  # noqa: E402
from inject import FAULTS  # noqa: E402
from kinds import KINDS, READER_IDLE_SECONDS, Collected, KafkaExactlyOnce, KafkaIdempotent, Objects, S3Large, WebhookNested, judge, link_of  # noqa: E402
from ledger import Ledger  # noqa: E402

SENT, ACKED = 3_000, 2_500


class Evidence(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.ledger = Ledger(os.path.join(folder.name, "s.jsonl"), "r1", "s")
        self.addCleanup(self.ledger.close)
        self.ledger.opened(1, 0)
        self.ledger.will_send(0, SENT)
        self.ledger.acknowledged(1, ACKED)

    def text(self, seq):
        return json.dumps(self.ledger.record(seq))

    def broken(self, texts, guarantee="EXACTLY_ONCE", end=ACKED, faults=()):
        """The invariants that these records violate."""
        verdict = Verdict()
        checker.check_records(verdict, self.ledger, Collected([judge(self.ledger, text) for text in texts], list(faults), {}), guarantee, end)
        return {name for name, texts in verdict.violated.items() if texts}

    def good(self, end=ACKED):
        return [self.text(seq) for seq in range(end)]

    def test_what_was_acknowledged_and_is_there_once_passes(self):
        self.assertEqual(self.broken(self.good()), set())

    def test_a_lost_record_is_found(self):
        self.assertEqual(self.broken(self.good()[:-1], end=ACKED - 1), {"I1"})

    def test_a_hole_is_found(self):
        texts = self.good()
        del texts[10]
        self.assertEqual(self.broken(texts), {"I1", "I5"})

    def test_a_record_that_is_there_twice_is_found_unless_duplicates_are_allowed(self):
        texts = [*self.good(), self.text(ACKED - 1)]
        self.assertEqual(self.broken(texts), {"I2"})
        self.assertEqual(self.broken(texts, "IDEMPOTENT"), {"I2"})
        self.assertEqual(self.broken(texts, "AT_LEAST_ONCE"), set())

    def test_a_record_that_was_never_sent_is_found(self):
        self.assertIn("I3", self.broken([*self.good(SENT), self.text(SENT)], end=SENT + 1))

    def test_a_bent_record_is_found(self):
        texts = self.good()
        texts[7] = texts[7].replace("r1-s-7;", "r1-s-8;", 1)
        self.assertEqual(self.broken(texts), {"I3"})
        texts[7] = texts[7][:-3]
        self.assertIn("I3", self.broken(texts))

    def test_a_record_of_another_stream_is_found(self):
        texts = self.good()
        texts[7] = texts[7].replace('"stream": "s"', '"stream": "t"')
        self.assertEqual(self.broken(texts), {"I3"})

    def test_order_is_kept_within_a_place_and_not_between_places(self):
        texts = self.good()
        texts[3], texts[4] = texts[4], texts[3]
        self.assertEqual(self.broken(texts), {"I4"})
        verdict = Verdict()
        found = [judge(self.ledger, text)._replace(place=number % 2) for number, text in enumerate(texts)]
        checker.check_order(verdict, "s", found[:3] + [found[4]._replace(place=1), found[3]._replace(place=0)])
        self.assertEqual(verdict.table()["I4"], "held")

    def test_more_than_the_stream_says_is_found_where_it_is_exactly_once(self):
        self.assertEqual(self.broken(self.good(ACKED + 5)), {"I5"})
        self.assertEqual(self.broken(self.good(ACKED + 5), "IDEMPOTENT"), set())

    def test_a_stream_that_never_finishes_is_found(self):
        self.assertEqual(self.broken(self.good(), end=None), {"I7"})

    def test_faults_of_the_reader_count(self):
        self.assertEqual(self.broken(self.good(), faults=["an overlap"]), {"I3"})

    def test_late_acks_and_thin_runs_are_found(self):
        began = self.ledger.ack_times[-1][0]
        verdict = Verdict()
        late = {"began": began + 1, "ended": began + 2}
        self.ledger.ack_times.append((began + 2 + checker.RESUME_SECONDS_MAX + 1, ACKED + 1))
        checker.check_progress(verdict, self.ledger, [late])
        checker.check_volume(verdict, self.ledger, [late], began + 100)
        self.assertEqual((len(verdict.violated["I7"]), len(verdict.violated["I10"])), (1, 1))
        self.assertEqual(late["acked"]["s"], {"before": ACKED, "during": 0, "after": 1})

    def test_errors_must_be_typed_and_name_what_they_are_about(self):
        def broken(code, reason, text, killed=False):
            verdict, end = Verdict(), SimpleNamespace(code=code, reason=reason, text=text)
            checker.check_errors(verdict, SimpleNamespace(ends=[end], statuses=[], ledger=self.ledger), {"DESTINATION_TIMEOUT", "SERVER_DRAINING"}, killed, "default.sink", "host:1")
            return bool(verdict.violated["I9"])

        self.assertFalse(broken("ABORTED", "DESTINATION_TIMEOUT", "default.sink: time-out"))
        self.assertFalse(broken("UNAVAILABLE", None, "reset", killed=True))
        self.assertTrue(broken("UNAVAILABLE", None, "reset"))
        self.assertTrue(broken("ABORTED", "SOMETHING", "default.sink: time-out"))
        self.assertTrue(broken("ABORTED", "DESTINATION_TIMEOUT", "time-out"))
        self.assertFalse(broken("UNAVAILABLE", "SERVER_DRAINING", "this server is stopping"))

    def test_secrets_and_panics_are_found(self):
        verdict = Verdict()
        checker.check_secrets(verdict, {"a log": "key=hunter2", "another": "thread 'x' panicked at src"}, ["hunter2"])
        self.assertEqual(len(verdict.violated["I9"]), 2)

    def test_growth_is_found(self):
        verdict, idle = Verdict(), {"rss_bytes": 1, "files": 10, "threads": 10}
        checker.check_bounds(verdict, SimpleNamespace(baseline=idle, peak={"rss_bytes": 1 << 40}, last={"files": 500, "threads": 500}))
        self.assertEqual(len(verdict.violated["I8"]), 3)

    def test_a_server_that_gives_an_old_epoch_or_goes_back_is_found(self):
        with self.assertRaises(AssertionError):
            self.ledger.opened(1, ACKED)
        with self.assertRaises(AssertionError):
            self.ledger.acknowledged(1, ACKED - 1)
        with self.assertRaises(AssertionError):
            self.ledger.acknowledged(1, SENT + 1)
        with self.assertRaises(AssertionError):
            self.ledger.opened(2, ACKED - 1)

    # ---- the readers ----

    def test_a_webhook_id_with_two_bodies_and_a_bad_signature_are_found(self):
        kind = WebhookNested.__new__(WebhookNested)
        body = __import__("hashlib").sha256(kind.body(self.ledger, 0, 9)).hexdigest()
        good = {"id": "a", "signature": "ok", "body_sha256": body, "first": 0, "last": 9}
        self.assertEqual(kind._of(self.ledger, [good, good]).faults, [])
        self.assertEqual(len(kind._of(self.ledger, [good, {**good, "body_sha256": "x"}]).faults), 1)
        self.assertEqual(len(kind._of(self.ledger, [{**good, "signature": "bad"}]).faults), 1)
        self.assertTrue(kind._of(self.ledger, [{**good, "body_sha256": "x"}]).found[0].fault)
        self.assertEqual(len(kind._of(self.ledger, [good, {**good, "id": "b"}]).found), 20, "the same records under two ids are there twice")

    def test_a_chain_with_a_hole_an_overlap_or_a_wrong_name_is_found(self):
        def chain(*objects):
            given = []
            for name, first, end in objects:
                lines = [self.text(seq).encode() for seq in range(first, end)]
                link = {"first": str(first), "next": str(end), "records": str(end - first), "epoch": "1"}
                given.append((f"p/s/{name:020}.ndjson", lines, b"\n".join(lines), link))
            return Objects._chain(None, self.ledger, given, []).faults

        self.assertEqual(chain((0, 0, 5), (5, 5, 9)), [])
        self.assertIn("a hole", chain((0, 0, 5), (6, 6, 9))[0])
        self.assertIn("an overlap", chain((0, 0, 5), (4, 4, 9))[0])
        self.assertIn("not named", chain((0, 0, 5), (7, 5, 9))[0])
        self.assertEqual(link_of({"x": "v=1;stream=ab;first=3", "y": "z"})["first"], "3")

    def test_kafka_records_are_read_with_their_place(self):
        kind = KafkaExactlyOnce.__new__(KafkaExactlyOnce)
        aborted = [(0, 9, {"datasink-stream": "s", "datasink-offset": "5"}, self.text(5))]
        committed = [(partition, place, {"datasink-stream": "s", "datasink-offset": str(seq)}, self.text(seq)) for partition, place, seq in ((0, 1, 1), (1, 0, 0), (1, 1, 0))]
        kind.read = lambda isolation, _: iter(committed + (aborted if isolation == "read_uncommitted" else []))
        collected = kind.collect(None, [self.ledger])["s"]
        self.assertEqual([(one.seq, one.place, one.fault) for one in collected.found], [(1, "partition 0", ""), (0, "partition 1", ""), (0, "partition 1", "")])
        self.assertEqual(collected.figures["uncommitted_extra"], 1)
        careful = KafkaIdempotent.__new__(KafkaIdempotent)
        careful.read = kind.read
        self.assertEqual(len(careful.collect(None, [self.ledger])["s"].found), 2, "a careful reader tells copies by their offset")
        committed[0][2]["datasink-offset"] = "7"
        self.assertTrue(kind.collect(None, [self.ledger])["s"].found[0].fault)

    def test_a_reader_that_gave_up_too_early_is_asked_again_and_one_that_sees_too_little_is_believed(self):
        kind, asked = KafkaExactlyOnce.__new__(KafkaExactlyOnce), []
        kind.read = lambda isolation, idle_seconds: asked.append(idle_seconds) or ([1, 2] if idle_seconds > min(READER_IDLE_SECONDS) else [])
        self.assertEqual(kind.read_both(2), ([1, 2], 2))
        self.assertEqual(kind.read_both(3), ([1, 2], 2), "a record that is not there stays away")
        self.assertEqual(set(asked), set(READER_IDLE_SECONDS))

    def test_an_upload_that_was_not_hit_in_the_middle_is_found(self):
        kind = S3Large.__new__(S3Large)
        kind.bucket, kind.uploads, kind.in_parts = "b", [], 2
        kind.client = SimpleNamespace(uploads=lambda bucket, key: [key] if key == "p/s/0.ndjson" else [])
        kind.halfway("POST /b/p/s/0.ndjson?uploadId=x HTTP/1.1")
        self.assertEqual(kind.unproved({}), [])
        kind.halfway("POST /b/p/s/7.ndjson?uploadId=x HTTP/1.1")
        self.assertEqual(len(kind.unproved({})), 1)
        kind.in_parts = 0
        self.assertEqual(len(kind.unproved({})), 2)

    # ---- the plan ----

    def test_a_seed_is_a_plan_whatever_came_before(self):
        def plan(seed, number):
            event = Event(seed, number)
            for _ in range(2):
                event.draw("nth", 1, 10**9, whole=True)
            event.draw("seconds", 1, 10)
            return event.plan

        self.assertEqual(plan(7, 1), plan(7, 1))
        self.assertEqual(len(plan(7, 1)["nth"]), 2)
        self.assertNotEqual(plan(7, 1), plan(7, 2))
        self.assertNotEqual(plan(7, 1), plan(8, 1))

    def test_an_operator_comes_only_where_the_destination_confesses_of_its_own_topic_and_excuses_no_more_than_the_wait(self):
        words = "Couldn't find leader endpoint for partitions Set(__consumer_offsets-0, {}-0) while trying to send transaction markers, these partitions are likely deleted already and hence can be skipped"
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"SERVICES_DIR": folder}):
            kafka = KafkaExactlyOnce(folder, 7)
            for topic, comes in ((kafka.topic, True), ("another", False)):
                with open(os.path.join(folder, "kafka.log"), "w", encoding="utf-8") as log:
                    log.write(f"INFO {kafka.topic}-0 is well\nINFO {words.format(topic)}\n")
                run = SimpleNamespace(target=kafka, events=[{}])
                with mock.patch.object(kafka, "operate", lambda: ["t 0 17"]):
                    fault.Run._operate(run)
                self.assertEqual("operator" in run.events[0], comes)
            with mock.patch.object(kafka, "confession", lambda: "a line"), mock.patch.object(kafka, "operate", list):
                run = SimpleNamespace(target=kafka, events=[{}])
                fault.Run._operate(run)
                self.assertEqual(run.events, [{}], "there was nothing to do, so whatever stands still does so for another reason")
        for event, broken in (({}, {"I7"}), ({"operator": {}}, set())):
            verdict = Verdict()
            checker.check_progress(verdict, self.ledger, [{**event, "ended": time.time() + 1_000}])
            self.assertEqual({name for name, texts in verdict.violated.items() if texts}, broken)

    def test_every_fault_has_a_kind_and_every_kind_its_faults(self):
        self.assertEqual([name for name, fault in FAULTS.items() if not any(fault.applies(kind) for kind in KINDS.values())], [])
        self.assertFalse(FAULTS["zombie"].applies(KINDS["local"]) or FAULTS["cut"].applies(KINDS["local"]) or FAULTS["kill-target"].applies(KINDS["local"]))
        self.assertTrue(all(fault.applies(KINDS["s3-large"]) for fault in FAULTS.values()))


if __name__ == "__main__":
    unittest.main()
