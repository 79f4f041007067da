"""Why: the webhook receiver of tests/services with a verifier that is not ours, so that our signature is judged by the specification's own library."""

import os
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "services"))
import webhook_receiver  # noqa: E402


class ForeignHandler(webhook_receiver.Handler):
    def signature(self, body):
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, headers)
        except WebhookVerificationError:
            return "bad"
        return "ok"


webhook_receiver.Handler = ForeignHandler
webhook_receiver.main()
