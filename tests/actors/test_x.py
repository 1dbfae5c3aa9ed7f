import anyio, pytest
from typing import Any
from runtime.errors import *
async def test_x(whole: Any) -> None:
    async with whole("[runtime]\npool = 2\nchild_pool = 1") as s:
        long = await s.submit("sleep", args={"seconds": 50})
        await s.until(long.id, "active")
        s.disk.breaks = ValueError("a bug")
        with pytest.raises(ActorCrashed):
            await s.submit()
        await anyio.sleep(20)
        for h in s.happened: print(h[0],h[1],{k:str(v)[-300:] for k,v in h[2].items()})
        print(s.system.tree())
