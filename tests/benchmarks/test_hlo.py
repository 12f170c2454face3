"""Tests benchmarks/compiled/hlo.py on program text written by hand, with known answers."""

import pytest

from benchmarks.compiled import hlo
from benchmarks.compiled.hlo_text import parse_arrays


@pytest.mark.parametrize(
  ("text", "size", "padded"),
  [
    ("f32[6500000,128]{1,0:T(8,128)}", 3_328_000_000, 3_328_000_000),
    ("f32[13000000,64]{1,0:T(8,128)}", 3_328_000_000, 6_656_000_000),
    ("f32[13000000,64]{0,1:T(8,128)}", 3_328_000_000, 64 * 13_000_064 * 4),
    ("f32[30000,2,64]{0,2,1:T(8,128)S(1)}", 15_360_000, 2 * 64 * 30_080 * 4),
    ("bf16[3,5]{1,0:T(8,128)(2,1)}", 30, 8 * 128 * 2),
    ("pred[30000]{0:T(1024)(128)(4,1)}", 30_000, 30_720),
    ("s4[9]{0:E(4)}", 5, 5),
    ("s4[9]{0}", 9, 9),
    ("u8[7]", 7, 7),
    ("f8e4m3fn[2,3]{1,0}", 6, 6),
    ("c64[5]{0}", 40, 40),
    ("f32[]{:T(128)}", 4, 512),
    ("token[]", 0, 0),
    ("(f32[2]{0}, /*index=1*/(s32[3]{0:T(128)}, pred[5]{0}), u32[]{:S(2)})", 8 + 12 + 5 + 4, 8 + 512 + 5 + 4),
  ],
)
def test_bytes_of_types(text, size, padded):
  arrays = parse_arrays(text)
  assert sum(array.bytes for array in arrays) == size
  assert sum(array.padded_bytes for array in arrays) == padded


# One all-gather spread over three fusions, two all-to-alls alike but for their names, one collective of each -start form, and
# all-reduces whose names were lost. Everything shares channel 1, as the collectives of a shard_map do.
SNIPPET = """HloModule jit_f, is_scheduled=true, replica_count=1, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

%never_run (p: f32[64]) -> f32[64] {
  %p = f32[64]{0} parameter(0)
  ROOT %all-reduce.99 = f32[64]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}

%start_body (p.1: f32[8,16]) -> (f32[8,16], f32[64,16]) {
  %p.1 = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.1 = f32[64,16]{1,0:T(8,128)} all-gather(%p.1), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(f)/exchange_ids/all_gather" stack_frame_id=3}
  ROOT %custom-call = (f32[8,16]{1,0:T(8,128)S(1)}, f32[64,16]{1,0:T(8,128)S(1)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%middle_body (p.2: f32[8,16], p.3: f32[64,16]) -> (f32[64,16], f32[64,16]) {
  %p.2 = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)
  %p.3 = f32[64,16]{1,0:T(8,128)S(1)} parameter(1)
  %all-gather.2 = f32[64,16]{1,0:T(8,128)S(1)} all-gather(%p.2), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(f)/exchange_ids/all_gather" stack_frame_id=3}
  ROOT %tuple.1 = (f32[64,16]{1,0:T(8,128)S(1)}, f32[64,16]{1,0:T(8,128)S(1)}) tuple(%p.3, %all-gather.2)
}

%done_body (p.4: f32[8,16], p.5: f32[64,16]) -> f32[64,16] {
  %p.4 = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)
  %p.5 = f32[64,16]{1,0:T(8,128)S(1)} parameter(1)
  %all-gather.3 = f32[64,16]{1,0:T(8,128)} all-gather(%p.4), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(f)/exchange_ids/all_gather" stack_frame_id=3}
  ROOT %custom-call.1 = f32[64,16]{1,0:T(8,128)S(1)} custom-call(%p.4, %p.5, %all-gather.3), custom_call_target="AsyncCollectiveDone"
}

%wrapped (p.6: f32[8,16]) -> f32[8,16] {
  %p.6 = f32[8,16]{1,0} parameter(0)
  ROOT %all-to-all.7 = f32[8,16]{1,0} all-to-all(%p.6), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, metadata={op_name="jit(f)/while/body/exchange_gradients/all_to_all"}
}

%body (c: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %c = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %v = f32[8,16]{1,0} get-tuple-element(%c), index=1
  %all-to-all.1 = f32[8,16]{1,0} all-to-all(%v), channel_id=1, replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}, metadata={op_name="jit(f)/while/body/exchange_values/all_to_all"}
  %all-to-all.2 = f32[8,16]{1,0} all-to-all(%all-to-all.1), channel_id=1, replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}, metadata={op_name="jit(f)/while/body/exchange_values/all_to_all"}
  %async-start = ((f32[8,16]{1,0}), f32[8,16]{1,0}) async-start(%all-to-all.2), calls=%wrapped
  %async-done = f32[8,16]{1,0} async-done(%async-start)
  ROOT %t = (s32[], f32[8,16]{1,0}) tuple(%i, %async-done)
}

%cond (c.1: (s32[], f32[8,16])) -> pred[] {
  %c.1 = (s32[], f32[8,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%c.1), index=0
  ROOT %lt = pred[] compare(%i.1, %i.1), direction=LT
}

ENTRY %main (a: f32[8,16], b: f32[64], n: s32[]) -> f32[64] {
  %a = f32[8,16]{1,0} parameter(0), metadata={op_name="a"}
  %b = f32[64]{0} parameter(1), metadata={op_name="b"}
  %n = s32[] parameter(2), metadata={op_name="n"}
  %t.1 = (s32[], f32[8,16]{1,0}) tuple(%n, %a)
  %while = (s32[], f32[8,16]{1,0}) while(%t.1), condition=%cond, body=%body
  %start = (f32[8,16]{1,0:T(8,128)S(1)}, f32[64,16]{1,0:T(8,128)S(1)}) fusion(%a), kind=kCustom, output_to_operand_aliasing={{0}: (0, {})}, calls=%start_body
  %g0 = f32[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%start), index=0
  %g1 = f32[64,16]{1,0:T(8,128)S(1)} get-tuple-element(%start), index=1
  %middle = (f32[64,16]{1,0:T(8,128)S(1)}, f32[64,16]{1,0:T(8,128)S(1)}) fusion(%g0, %g1), kind=kOutput, calls=%middle_body
  %g2 = f32[64,16]{1,0:T(8,128)S(1)} get-tuple-element(%middle), index=0
  %done = f32[64,16]{1,0:T(8,128)S(1)} fusion(%g0, %g2), kind=kCustom, calls=%done_body
  %scatter-start = ((f32[64]{0}), f32[8]{0}) reduce-scatter-start(%b), channel_id=1, replica_groups=mesh['x'=2,'y'=4] {'x','y'}, dimensions={0}, to_apply=%add, metadata={op_name="jit(f)/exchange_squares/reduce_scatter"}
  %scatter-done = f32[8]{0} reduce-scatter-done(%scatter-start)
  %gather-start = ((bf16[4]{0}, s32[1]{0}), (bf16[16]{0}, s32[4]{0})) all-gather-start(%b, %n), channel_id=1, replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}, metadata={op_name="jit(f)/(exchange_ids/all_gather:exchange_counts/all_gather)"}
  %gather-done = (bf16[16]{0}, s32[4]{0}) all-gather-done(%gather-start)
  %permute-start = (f32[64]{0}, f32[64]{0}, u32[], u32[]) collective-permute-start(%b), channel_id=1, source_target_pairs={{0,1},{1,0},{2,3}}, metadata={op_name="jit(f)/ppermute"}
  %permute-done = f32[64]{0} collective-permute-done(%permute-start)
  %both = (f32[64]{0}, f32[2,3]{1,0}) all-reduce(%b, %a), channel_id=2, replica_groups={}, to_apply=%add, metadata={op_name="jit(f)/transpose(jvp())/dot_general"}
  %part0 = f32[64]{0} get-tuple-element(%both), index=0, metadata={op_name="jit(f)/transpose(jvp())/dot_general"}
  %part1 = f32[2,3]{1,0} get-tuple-element(%both), index=1, metadata={op_name="jit(f)/shard_map/exchange_squares/psum"}
  %one = f32[1]{0} bitcast(%part0), metadata={op_name="jit(f)/exchange_counts/all_gather"}
  %dus = f32[64]{0} dynamic-update-slice(%b, %one, %n)
  %lost-start = f32[64]{0} all-reduce-start(%dus), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %lost-done = f32[64]{0} all-reduce-done(%lost-start)
  %square = f32[64]{0} multiply(%lost-done, %lost-done), metadata={op_name="jit(f)/exchange_squares/mul"}
  %square-sum = f32[64]{0} all-reduce(%square), channel_id=4, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %product = f32[64]{0} multiply(%a, %b), metadata={op_name="jit(f)/dot_general"}
  %named-after = f32[64]{0} all-reduce(%product), channel_id=6, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %slice = f32[9]{0} slice(%named-after), slice={[0:9]}, metadata={op_name="jit(f)/exchange_squares/psum"}
  %count = s32[] all-reduce(%n), channel_id=5, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %more = pred[] compare(%count, %n), direction=GT, metadata={op_name="jit(f)/exchange_counts/gt"}
  ROOT %last = f32[64]{0} add(%square-sum, %square-sum), metadata={op_name="jit(f)/add"}
}
"""  # noqa: E501


def test_collectives_of_a_snippet():
  found = {c.name: (c.kind, c.bytes, c.group_size, hlo.category(c), c.in_loop) for c in hlo.collectives(SNIPPET)}
  assert found == {
    "all-gather.1": ("all-gather", 64 * 16 * 4, 8, "exchange_ids", False),
    "all-to-all.7": ("all-to-all", 512, 4, "exchange_gradients", True),
    "all-to-all.1": ("all-to-all", 512, 2, "exchange_values", True),
    "all-to-all.2": ("all-to-all", 512, 2, "exchange_values", True),
    "scatter-start": ("reduce-scatter", 256, 8, "exchange_squares", False),
    "gather-start": ("all-gather", 16 * 2 + 4 * 4, 4, "exchange_counts+exchange_ids", False),
    "permute-start": ("collective-permute", 256, 3, "dense", False),
    "both": ("all-reduce", 256 + 24, 8, "dense+exchange_squares", False),
    "lost-start": ("all-reduce", 256, 8, "exchange_counts", False),
    "square-sum": ("all-reduce", 256, 8, "exchange_squares", False),
    "named-after": ("all-reduce", 256, 8, "exchange_squares", False),
    "count": ("all-reduce", 4, 8, "exchange_counts", False),
  }


def test_a_chain_of_its_own_is_counted():
  second = SNIPPET.replace('chain_id="0"', 'chain_id="1"', 1)  # the first fusion's collective becomes another than the other two's
  assert len(hlo.collectives(second)) == len(hlo.collectives(SNIPPET)) + 1


def test_unknown_groups_are_refused():
  with pytest.raises(ValueError, match=r"both: replica_groups=<all> is written"):
    hlo.collectives(SNIPPET.replace("replica_groups={},", "replica_groups=<all>,"))


ARRAYS = """HloModule jit_g, is_scheduled=true

%in_place (p.1: f32[100,8], p.2: s32[3], p.3: f32[3,8]) -> (f32[100,8], f32[100,8]) {
  %p.1 = f32[100,8]{1,0} parameter(0)
  %p.2 = s32[3]{0} parameter(1)
  %p.3 = f32[3,8]{1,0} parameter(2)
  %hidden = f32[100,8]{1,0} negate(%p.1)
  %flat = f32[800]{0} bitcast(%p.1)
  %dus = f32[800]{0} dynamic-update-slice(%flat, %p.3, %p.2)
  %shaped = f32[100,8]{1,0} bitcast(%dus)
  ROOT %t = (f32[100,8]{1,0}, f32[100,8]{1,0}) tuple(%shaped, %hidden)
}

%not_in_place (q.1: f32[100,8], q.2: s32[3], q.3: f32[3,8]) -> f32[100,8] {
  %q.1 = f32[100,8]{1,0} parameter(0)
  %q.2 = s32[3]{0} parameter(1)
  %q.3 = f32[3,8]{1,0} parameter(2)
  %twice = f32[100,8]{1,0} add(%q.1, %q.1)
  ROOT %scatter = f32[100,8]{1,0} scatter(%twice, %q.2, %q.3), to_apply=%add
}

%opaque (r.1: f32[100,8]) -> f32[100,8] {
  %r.1 = f32[100,8]{1,0} parameter(0)
  ROOT %custom = f32[100,8]{1,0} custom-call(%r.1), custom_call_target="g"
}

%elsewhere (o.1: f32[100,8], o.2: s32[3], o.3: f32[3,8]) -> f32[100,8] {
  %o.1 = f32[100,8]{1,0} parameter(0)
  %o.2 = s32[3]{0} parameter(1)
  %o.3 = f32[3,8]{1,0} parameter(2)
  %inner = f32[100,8]{1,0} negate(%o.1)
  ROOT %scatter.2 = f32[100,8]{1,0} scatter(%inner, %o.2, %o.3), to_apply=%add
}

ENTRY %main (a: f32[100,8], i: s32[3], u: f32[3,8]) -> f32[100,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[3]{0} parameter(1)
  %u = f32[3,8]{1,0} parameter(2)
  %zero = f32[] constant(0)
  %zeros = f32[100,8]{1,0} broadcast(%zero), dimensions={}
  %both = (f32[100,8]{1,0}, f32[100,8]{1,0}) fusion(%a, %i, %u), kind=kLoop, calls=%in_place
  %first = f32[100,8]{1,0} get-tuple-element(%both), index=0
  %fresh = f32[100,8]{1,0} fusion(%first, %i, %u), kind=kInput, calls=%not_in_place
  %moved = (f32[100,8]{1,0:T(8,128)}, f32[100,8]{1,0}, u32[]) copy-start(%fresh)
  %done = f32[100,8]{1,0:T(8,128)} copy-done(%moved)
  %call = f32[100,8]{1,0} custom-call(%done, %u), custom_call_target="f", output_to_operand_aliasing={{}: (0, {})}
  %kept = f32[100,8]{1,0} fusion(%call), kind=kCustom, output_to_operand_aliasing={{}: (0, {})}, calls=%opaque
  %call-start = ((f32[100,8]{1,0}, s32[3]{0}, f32[3,8]{1,0}), f32[100,8]{1,0}) call-start(%kept, %i, %u), to_apply=%elsewhere
  %call-done = f32[100,8]{1,0} call-done(%call-start)
  %small = f32[99,8]{1,0} slice(%call), slice={[0:99], [0:8]}
  ROOT %scatter.1 = f32[100,8]{1,0} scatter(%call, %i, %u), to_apply=%add
}
"""


def test_arrays_written_anew():
  found = [(a.name, a.bytes, a.padded_bytes) for a in hlo.largest_arrays(ARRAYS, 3200)]
  assert found == [
    ("moved", 3200, 104 * 128 * 4),
    ("inner", 3200, 3200),
    ("zeros", 3200, 3200),
    ("both", 3200, 3200),
    ("fresh", 3200, 3200),
  ]
