"""Receive latents by Zenoh and write colour and depth: python zenoh_subscriber.py tcp/127.0.0.1:7447 DIR."""

import json
import sys
from pathlib import Path

import cv2
import zenoh

import edgevae
from edgevae.wire import unpack

if len(sys.argv) < 3:
    sys.exit(__doc__)
endpoint, folder, model = sys.argv[1], Path(sys.argv[2]), edgevae.load(*sys.argv[3:4])
config = zenoh.Config()
config.insert_json5("listen/endpoints", json.dumps([endpoint]))
config.insert_json5("scouting/multicast/enabled", "false")
folder.mkdir(parents=True, exist_ok=True)
with zenoh.open(config) as session, session.declare_subscriber("edgevae/*/latent") as subscriber:
    for sample in subscriber:
        message = unpack(sample.payload.to_bytes(), sample.attachment and sample.attachment.to_bytes())
        if message.model_sha256 != model.spec.sha256:
            sys.exit(f"the latents are of {message.model}, another model than {model.spec.path}")
        rgb, depth_m = model.decode(message.latent)
        cv2.imwrite(str(folder / f"{message.frame:06d}.png"), rgb[..., ::-1])
        if depth_m is not None:
            cv2.imwrite(
                str(folder / f"{message.frame:06d}_mm.png"), (depth_m * 1000).clip(0, 65535).astype("u2")
            )
        print(f"{message.source} frame {message.frame} at {message.timestamp_ns} ns", flush=True)
