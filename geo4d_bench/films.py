"""MP4 films, written frame by frame."""

from __future__ import annotations

import errno
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class Film:
    """Writes H.264 to ``path``; a context manager. Write to a temporary name, and rename what is whole.

    ffmpeg is started without copying this process (imageio forks it, which the kernel refuses where more memory is
    mapped than the machine has), and in a group of its own, so that Ctrl-C is for this process alone.

    Args:
        path: of the MP4 file.
        fps: pictures a second.
        crf: quality, 0 (lossless) to 51; six more are about half of the size.
        options: further ones of ffmpeg for the output.
    """

    def __init__(self, path: Path, fps: float, crf: int = 25, options: Sequence[str] = ()) -> None:
        self._path, self._fps, self._options = path, fps, ["-crf", str(crf), *options]
        self._ffmpeg: subprocess.Popen[bytes] | None = None

    def append(self, picture: Any) -> None:
        """Add one picture, (H, W, 3) uint8, H and W even and the same for all; OSError where it cannot be written."""
        if self._ffmpeg is None:
            self._ffmpeg = self._start(*picture.shape[:2])
        assert self._ffmpeg.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and `close` says why
            self._ffmpeg.stdin.write(picture.tobytes())
            return
        self.close()

    def close(self) -> None:
        """Finish the file; OSError where ffmpeg could not."""
        ffmpeg, self._ffmpeg = self._ffmpeg, None
        if ffmpeg is not None:
            _, errors = ffmpeg.communicate()
            if ffmpeg.returncode:
                # Of its many lines the first says what failed; a signal ends it where a file may not grow so large.
                lines = errors.decode(errors="replace").splitlines()
                why = lines[0] if lines else signal.strsignal(-ffmpeg.returncode) or f"exit code {ffmpeg.returncode}"
                raise OSError(errno.EIO, f"could not be written by ffmpeg: {why}", str(self._path))

    def __enter__(self) -> Film:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed and self._ffmpeg is not None:  # Ctrl-C, too: nobody wants the rest
            self._ffmpeg.kill()
            self._ffmpeg.communicate()
        else:
            self.close()

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        import imageio_ffmpeg

        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._fps:g}", "-i", "-"]
        coded = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", *self._options, str(self._path)]
        return subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *raw, *coded], stdin=subprocess.PIPE,
            stderr=subprocess.PIPE, process_group=0,
        )  # fmt: skip
