"""The demo with short replies: models that are hardly trained would fill any limit with each of them."""

from dataclasses import replace

from glmja.demo import pipeline, recitation


def main(args):
    recitation._LIMITS = replace(recitation._LIMITS, max_new_tokens=8)
    pipeline.main(args)
