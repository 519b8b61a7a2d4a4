from typing import TypedDict

class SimdInfo(TypedDict):
    compiled: list[str]
    supported: list[str]
    in_use: str
    math: str
    square_root: str
    units: str

class BuildInfo(TypedDict):
    compiler: str

def simd_info() -> SimdInfo: ...
def in_use() -> str: ...
def build_info() -> BuildInfo: ...
