"""Filter policies: which messages pass, and which policies are refused."""

import json

import pytest

from melange.server.sns.filter_policies import FilterPolicy, FilterPolicyError


def text(value):
    return {"DataType": "String", "StringValue": value}


def number(value):
    return {"DataType": "Number", "StringValue": value}


def array(*values):
    return {"DataType": "String.Array", "StringValue": json.dumps(values)}


def passes(policy, **attributes):
    return FilterPolicy(json.dumps(policy), reads_body=False).lets_pass("body", attributes)


def passes_body(policy, body):
    return FilterPolicy(json.dumps(policy), reads_body=True).lets_pass(json.dumps(body), {})


@pytest.mark.parametrize(
    ("accepted", "passing", "stopped"),
    [
        (["a", "b"], text("b"), text("c")),
        ([5], number("5.0"), text("5")),
        (["5"], text("5"), number("5")),
        ([True], array(True), array("true")),
        ([{"prefix": "a"}], text("ab"), text("ba")),
        ([{"suffix": ".png"}], text("a.png"), text("png")),
        ([{"equals-ignore-case": "ABC"}], text("abc"), text("abcd")),
        ([{"anything-but": ["a", "b"]}], text("c"), text("a")),
        ([{"anything-but": "a"}], array("a", "b"), array("a")),
        ([{"anything-but": {"prefix": "a"}}], text("ba"), text("ab")),
        ([{"numeric": [">=", 1, "<", 2]}], number("1"), number("2")),
        ([{"numeric": ["=", 1]}], number("1.0"), text("1")),
        ([{"cidr": "10.0.0.0/24"}], text("10.0.0.255"), text("10.0.1.0")),
    ],
)
def test_a_condition_lets_pass_what_it_names(accepted, passing, stopped):
    assert passes({"key": accepted}, key=passing)
    assert not passes({"key": accepted}, key=stopped)
    assert not passes({"key": accepted}, other=passing)


def test_existence_and_absence_can_be_asked_for():
    assert passes({"key": [{"exists": True}]}, key=text("any"))
    assert not passes({"key": [{"exists": True}]})
    assert passes({"key": [{"exists": False}]})
    assert not passes({"key": [{"exists": False}]}, key=text("any"))
    assert passes({"key": ["a", {"exists": False}]}, key=text("a"))


def test_all_keys_must_match_and_one_of_the_alternatives():
    policy = {"kind": ["order"], "$or": [{"size": [1]}, {"colour": ["red"]}]}

    assert passes(policy, kind=text("order"), colour=text("red"))
    assert not passes(policy, kind=text("order"), colour=text("blue"))
    assert not passes(policy, kind=text("other"), size=number("1"))


def test_a_body_is_read_in_depth_with_dots_and_through_arrays():
    policy = {"order": {"lines": {"sku": ["x"], "count": [{"numeric": [">", 1]}]}}}

    assert passes_body(policy, {"order": {"lines": [{"sku": "y", "count": 1}, {"sku": "x", "count": 2}]}})
    assert not passes_body(policy, {"order": {"lines": [{"sku": "x", "count": 1}, {"sku": "y", "count": 2}]}})
    assert passes_body({"a.b": [1]}, {"a": {"b": [2, 1]}})
    assert not passes_body({"a": [{"exists": False}]}, ["no object"])


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("[]", "must be an object"),
        ("{nojson}", "failed to parse JSON"),
        ('{"key": []}', "Empty arrays are not allowed"),
        ('{"key": "value"}', '"key" must be an object or an array'),
        ('{"key": [["value"]]}', "Match value must be"),
        ('{"key": [{"prefix": "a", "suffix": "b"}]}', "Only one key allowed"),
        ('{"key": [{"like": "a"}]}', "Unrecognized match type like"),
        ('{"key": [{"prefix": 1}]}', "prefix match pattern must be a string"),
        ('{"key": [{"exists": "no"}]}', "exists match pattern must be either true or false"),
        ('{"key": [{"anything-but": {"suffix": "a"}}]}', "Unsupported anything-but pattern: suffix"),
        ('{"key": [{"numeric": []}]}', "Invalid member in numeric match"),
        ('{"key": [{"numeric": [">", 3, "<", 1]}]}', "Bottom must be less than top"),
        ('{"key": [{"numeric": ["<", 1, ">", 2]}]}', "Too many elements"),
        ('{"key": [{"numeric": [">", 1, "<", 2, "<", 3]}]}', "Too many terms"),
        ('{"key": [{"cidr": "10.0.0.0"}]}', "one '/' required"),
        ('{"a": [1], "b": [1], "c": [1], "d": [1], "e": [1], "f": [1]}', "more than 5 keys"),
    ],
)
def test_a_policy_that_aws_refuses_is_refused_with_its_reason(policy, reason):
    with pytest.raises(FilterPolicyError, match=reason):
        FilterPolicy(policy, reads_body=False)


def test_combinations_count_values_times_depth_and_add_up_alternatives():
    deep = {"a": {"b": {"c": list("1234")}}, "d": {"e": list("12345")}}  # 3 * 4 * 2 * 5 = 120

    FilterPolicy(json.dumps(deep), reads_body=True)
    with pytest.raises(FilterPolicyError, match="too complex"):
        FilterPolicy(json.dumps(deep | {"f": list("12")}), reads_body=True)


def test_nested_policies_need_the_scope_of_the_body():
    with pytest.raises(FilterPolicyError, match="does not support nested"):
        FilterPolicy('{"a": {"b": ["c"]}}', reads_body=False)
