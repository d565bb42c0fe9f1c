"""The metrics, named according to https://prometheus.io/docs/practices/naming/."""

from __future__ import annotations

from sglang_speechlm.metrics.metric import Counter, Gauge, Histogram

_MODE = {"mode": ("text", "spoken", "guided")}
_KIND = {"kind": ("plain", "guided")}
_END = {"finish_reason": ("stop", "length", "abort", "refused", "error")}

REPLIES = Counter("speechlm_replies_total", "Replies that have ended.", {**_MODE, **_END})
REPLIES_RUNNING = Gauge("speechlm_replies_running", "Replies in progress.", _MODE)
STAGES_RUNNING = Gauge("speechlm_stages_running", "Reply stages in SGLang, waiting ones included.")
FIRST_TEXT_SECONDS = Histogram(
    "speechlm_first_text_seconds", "From the start of a reply to the first piece of its text.", _MODE
)
TEXT_SECONDS = Histogram("speechlm_text_stage_seconds", "From the start of a reply to the end of its text.", _MODE)
FIRST_AUDIO_SECONDS = Histogram(
    "speechlm_first_audio_seconds",
    "From the end of a reply's text to the first piece of its sound.",
    {"mode": ("spoken", "guided")},
)
REPLY_SECONDS = Histogram("speechlm_reply_seconds", "From the start of a reply to its end.", _MODE)
FRAMES = Counter("speechlm_frames_total", "Audio frames decoded.", _KIND)
AUDIO_SECONDS = Counter("speechlm_audio_seconds_total", "Seconds of sound delivered.", _KIND)
CLIPS = Counter("speechlm_clips_total", "Clips and earlier sounds in the prompts of replies.")
CLIPS_ENCODED = Counter("speechlm_clips_encoded_total", "Clips and earlier sounds that were in no cache.")
PAIRS_REJECTED = Counter("speechlm_pairs_rejected_total", "Guided requests refused because they could never fit.")
PAIRS_DEFERRED = Counter(
    "speechlm_pairs_deferred_total", "Guided requests that waited although one branch would have fit."
)
PAIRS_RETRACTED = Counter("speechlm_pairs_retracted_total", "Retractions of guided requests, both branches together.")
CODEC_STREAMS = Gauge("speechlm_codec_streams", "Sounds that the HTTP process is reading from the codec process.")
CODEC_SLOTS = Gauge("speechlm_codec_slots", "Sounds in progress in the codec process.")
CODEC_RESTARTS = Counter("speechlm_codec_restarts_total", "Restarts of the codec process after it died.")
