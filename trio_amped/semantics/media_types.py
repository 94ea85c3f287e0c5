"""Owns the Content-Type of a file name. Pure: the same on every machine.

Our own table says what the web uses; for the rest, the one that is built into `mimetypes`.
"""

import mimetypes

DEFAULT = b"application/octet-stream"

# Media that is not compressed, and files of other kinds that are.
_LOOSE = frozenset(
    b"image/svg+xml image/bmp image/x-icon image/tiff image/vnd.adobe.photoshop"
    b" image/x-portable-pixmap image/x-portable-graymap image/x-portable-bitmap"
    b" audio/wav audio/midi audio/aiff".split()
)
_DENSE = frozenset(
    b"font/woff font/woff2 application/gzip application/zip application/zstd application/x-brotli"
    b" application/x-bzip2 application/x-xz application/x-lzip application/x-lz4"
    b" application/x-lzma application/x-compress application/x-7z-compressed application/vnd.rar"
    b" application/epub+zip application/vnd.debian.binary-package application/x-rpm"
    b" application/vnd.android.package-archive application/java-archive"
    b" application/x-apple-diskimage application/vnd.apache.parquet"
    b" application/vnd.pmtiles application/vnd.google-earth.kmz".split()
)

# A type, and the extensions that mean it. Compressed files are what they are: tar.gz is gzip.
_TABLE = b"""
text/html html htm shtml
text/css css
text/javascript js mjs cjs
text/plain txt text log conf cfg ini asc c cc cpp h hpp rs go java
text/markdown md markdown
text/csv csv
text/tab-separated-values tsv
text/calendar ics
text/vcard vcf
text/vtt vtt
text/x-python py
text/x-rst rst
text/x-diff diff patch
text/x-component htc
application/json json map
application/ld+json jsonld
application/geo+json geojson
application/schema+json schema
application/feed+json jsonfeed
application/x-ndjson ndjson jsonl
application/manifest+json webmanifest
application/xml xml xsd rng
application/xslt+xml xsl xslt
application/xhtml+xml xhtml xht
application/atom+xml atom
application/rss+xml rss
application/mathml+xml mathml
application/gpx+xml gpx
application/vnd.google-earth.kml+xml kml
application/vnd.google-earth.kmz kmz
application/yaml yaml yml
application/toml toml
application/sql sql
application/rtf rtf
application/x-sh sh
application/wasm wasm
application/pdf pdf
application/postscript ps eps ai
application/x-tex tex
application/x-latex latex
application/epub+zip epub
application/msword doc dot
application/vnd.ms-excel xls
application/vnd.ms-powerpoint ppt
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.oasis.opendocument.text odt
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.oasis.opendocument.presentation odp
application/vnd.oasis.opendocument.graphics odg
application/pgp-keys pgp
application/pgp-signature sig
application/x-x509-ca-cert crt der pem
application/pkix-crl crl
application/vnd.apple.mpegurl m3u8
application/dash+xml mpd
application/x-bittorrent torrent
application/vnd.pmtiles pmtiles
application/vnd.mapbox-vector-tile mvt pbf
application/vnd.apache.parquet parquet
application/vnd.apache.arrow.file arrow feather
application/vnd.apache.arrow.stream arrows
application/vnd.sqlite3 sqlite sqlite3 gpkg
application/x-hdf5 h5 hdf5
application/x-netcdf nc cdf
application/gzip gz tgz svgz
application/zip zip
application/zstd zst
application/x-brotli br
application/x-bzip2 bz2
application/x-xz xz
application/x-lzip lz
application/x-lz4 lz4
application/x-lzma lzma
application/x-compress z
application/x-7z-compressed 7z
application/vnd.rar rar
application/x-tar tar
application/x-cpio cpio
application/vnd.debian.binary-package deb udeb
application/x-rpm rpm
application/vnd.android.package-archive apk
application/java-archive jar war ear
application/x-iso9660-image iso
application/x-apple-diskimage dmg
application/x-xpinstall xpi
application/x-msdownload exe dll
application/x-msi msi
application/vnd.flatpak.ref flatpakref
application/vnd.ms-fontobject eot
application/octet-stream bin img so o a dump whl npy npz
font/woff woff
font/woff2 woff2
font/ttf ttf
font/otf otf
font/collection ttc
image/svg+xml svg
image/png png
image/apng apng
image/jpeg jpg jpeg jpe jfif
image/gif gif
image/webp webp
image/avif avif
image/jxl jxl
image/heic heic
image/heif heif
image/tiff tif tiff
image/bmp bmp
image/jp2 jp2
image/x-icon ico cur
image/vnd.adobe.photoshop psd
image/x-portable-pixmap ppm
image/x-portable-graymap pgm
image/x-portable-bitmap pbm
audio/mpeg mp3 mp2
audio/mp4 m4a m4b
audio/aac aac
audio/ogg ogg oga
audio/opus opus
audio/flac flac
audio/wav wav
audio/webm weba
audio/midi mid midi
audio/aiff aif aiff aifc
video/mp4 mp4 m4v m4s cmfv
video/webm webm
video/ogg ogv
video/quicktime mov qt
video/mpeg mpg mpeg
video/mp2t ts m2ts
video/x-matroska mkv
video/x-msvideo avi
video/x-flv flv
video/3gpp 3gp
model/gltf+json gltf
model/gltf-binary glb
model/obj obj
model/mtl mtl
model/stl stl
model/vnd.usdz+zip usdz
"""


def _by_extension(table: bytes) -> dict[bytes, bytes]:
    types: dict[bytes, bytes] = {}
    for line in table.split(b"\n"):
        kind, _, extensions = line.partition(b" ")
        types.update(dict.fromkeys(extensions.split(), kind))
    return types


_TYPES = _by_extension(_TABLE)
# The built-in table. The public ways to it read files of the system first (mimetypes.init), which a
# helper that is confined may not.
_RARE: dict[str, str] = mimetypes._types_map_default  # type: ignore[attr-defined]


def media_type(name: bytes) -> bytes:
    """The type, without parameters, for the last extension of a name or path (RFC 9110 8.3).

    Case does not matter. Without a known extension it is application/octet-stream.
    """
    stem, _, extension = name.rpartition(b"/")[2].lower().rpartition(b".")
    if not stem:
        return DEFAULT
    kind = _TYPES.get(extension)
    if kind is None:
        kind = _RARE.get(f".{extension.decode('latin-1')}", DEFAULT.decode()).encode()
    return kind


def is_compressed(kind: bytes) -> bool:
    """Whether files of this type have no more to gain from a content coding."""
    if kind.startswith((b"image/", b"audio/", b"video/")):
        return kind not in _LOOSE
    return kind in _DENSE
