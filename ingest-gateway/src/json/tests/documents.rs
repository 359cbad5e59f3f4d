//! Whole documents: whose fault a fault is, what is kept of unknown members, and how much there may be.

use contract::limits::{EXTRA_BYTES_MAX, ITEMS_MAX};

use super::*;

#[test]
fn what_the_grammar_allows_and_nobody_can_hold_is_the_items_fault() {
    for value in [
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        "18446744073709551616",
        "-9223372036854775809",
        "1e131071",
        "-1e400",
        r#"{"a":["\ud800"]}"#,
        r#""\u0000""#,
        r#"{"\u0000":1}"#,
    ] {
        let item = one(&with("note", value));
        let found = pointers(item);
        assert_eq!(found.len(), 1, "{value}");
        assert!(found[0].starts_with("/note"), "{value}: {found:?}");
    }
    assert_eq!(pointers(one(&with("\\ud800", "1"))), [""]);
    assert_eq!(pointers(one(&with("\\u0000", "1"))), ["/\0"]);
    for scalar in [
        "1",
        "null",
        "\"x\"",
        "true",
        "1e999",
        "\"\\ud800\"",
        "18446744073709551616",
    ] {
        assert_eq!(pointers(one(scalar)), [""], "{scalar}");
    }
}

#[test]
fn a_bad_item_never_harms_its_neighbours() {
    let good = with("id", "7");
    for bad in [
        "1",
        "null",
        "[]",
        r#"{"id":0}"#,
        r#""\u0000""#,
        r#""\ud800""#,
        "1e999",
        "99999999999999999999",
        &with("x", "1e999"),
        &with("x", r#""\ud800""#),
    ] {
        let text = format!("[{bad},{good}, {bad} ,{good}]");
        let Ok(Body::Many(items)) = read(text.as_bytes()) else {
            panic!("{text} is an array");
        };
        let ids: Vec<_> = items
            .iter()
            .map(|item| item.as_ref().ok().and_then(Item::ride_id))
            .collect();
        assert_eq!(ids, [None, Some(7), None, Some(7)], "{text}");
    }
}

#[test]
fn what_is_not_json_is_not_read_at_all() {
    let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
    let deeper = "[".repeat(500_000);
    for text in [
        "{",
        "}",
        "[1",
        "[1,]",
        "[,1]",
        "{\"a\":1,}",
        "{\"a\"}",
        "{a:1}",
        "{'a':1}",
        "01",
        "+1",
        "1.",
        ".5",
        "-",
        "1e",
        "0x1",
        "NaN",
        "Infinity",
        "True",
        "nUll",
        "tru",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\t\"",
        "\"a\nb\"",
        "[1] 2",
        "{} {}",
        "\u{feff}{}",
        "// x\n1",
        "[1 2]",
        "{\"a\" 1}",
        "{1:2}",
        "\u{a0}1",
        "[1]\0",
        &deep,
        &deeper,
    ] {
        let refusal = read(text.as_bytes()).expect_err(text);
        assert_eq!(refusal.problem, Problem::Malformed, "{text}");
    }
    for bytes in [
        &b"\"\xff\""[..],
        b"{\"a\":\"\xed\xa0\x80\"}",
        b"\xff\xfe1",
        b"[\"\xc0\x80\"]",
    ] {
        let refusal = read(bytes).expect_err("not UTF-8");
        assert_eq!(refusal.problem, Problem::Malformed, "{bytes:?}");
    }
    for text in ["", " \r\n\t", "[]", " [ ] "] {
        let refusal = read(text.as_bytes()).expect_err(text);
        assert_eq!(refusal.problem, Problem::Empty, "{text}");
    }
}

#[test]
fn extra_is_canonical() {
    let text = with(
        "zz",
        r#" { "b" : [ 1 , -2.50 , 1E2, "\u00fc\/\n" , null ] , "a" : 18446744073709551615 } , "Aa" : true"#,
    );
    assert_eq!(
        one(&text).unwrap().extra.as_deref(),
        Some(r#"{"Aa":true,"zz":{"a":18446744073709551615,"b":[1,-2.5,100.0,"ü/\n",null]}}"#)
    );
    assert_eq!(
        one(&with("x", "-0.0")).unwrap().extra.as_deref(),
        Some(r#"{"x":0.0}"#)
    );
}

#[test]
fn extra_is_bounded_in_bytes_and_depth() {
    let of_size = |bytes: usize| {
        with(
            "x",
            &format!("\"{}\"", "y".repeat(bytes - r#"{"x":""}"#.len())),
        )
    };
    assert_eq!(
        one(&of_size(EXTRA_BYTES_MAX)).unwrap().extra.unwrap().len(),
        EXTRA_BYTES_MAX
    );
    assert_eq!(pointers(one(&of_size(EXTRA_BYTES_MAX + 1))), [""]);
    // The object of the unknown members is the first level.
    let of_depth = |depth: usize| with("x", &("[".repeat(depth - 1) + &"]".repeat(depth - 1)));
    assert!(one(&of_depth(8)).is_ok());
    assert_eq!(pointers(one(&of_depth(9))), ["/x"]);
    assert_eq!(pointers(one(&of_depth(1_000))), ["/x"]);
}

#[test]
fn the_paths_id_and_the_bodys_agree() {
    let form = put(7, None);
    let read = |text: &str| read_one(text.as_bytes(), &form).map(|item| ride_of(item).id);
    assert_eq!(read(&with("id", "7")), Ok(7));
    assert_eq!(read(&with("id", "")), Ok(7));
    for id in ["8", "null", "\"7\"", "7.0"] {
        let refusal = read(&with("id", id)).unwrap_err();
        assert_eq!(refusal.faults[0].pointer, "/id", "{id}");
    }
    for array in ["[]", "[{}]", "[1e999]"] {
        let refusal = read(array).unwrap_err();
        assert_eq!(refusal.faults[0].pointer, "", "{array}");
    }
}

#[test]
fn a_put_may_have_a_condition_and_a_post_keeps_the_member_as_it_is() {
    let read = |text: &str, if_match| {
        let item = read_one(text.as_bytes(), &put(1, if_match))?;
        assert_eq!(item.operation, Operation::Replace);
        Ok::<_, Refusal>((item.expected_version, ride_of(item).extra))
    };
    assert_eq!(read(&with("id", "1"), None), Ok((None, None)));
    assert_eq!(read(&with("id", "1"), Some(3)), Ok((Some(3), None)));
    for name in ["expected_version", "expectedVersion"] {
        for if_match in [None, Some(3)] {
            assert_eq!(read(&with(name, "3"), if_match), Ok((Some(3), None)));
        }
        for (value, if_match) in [
            ("4", Some(3)),
            ("0", None),
            ("-1", None),
            ("null", None),
            ("null", Some(3)),
            ("2147483648", None),
            ("1.0", None),
            ("1e999", None),
            ("\"3\"", None),
        ] {
            let refusal = read(&with(name, value), if_match).unwrap_err();
            assert_eq!(refusal.faults[0].pointer, format!("/{name}"), "{value}");
        }
        let created = one(&with(name, "3")).unwrap();
        assert_eq!(created.extra, Some(format!(r#"{{"{name}":3}}"#)));
    }
    let save = Form::Ride(ride::Form::Save);
    let item = read_one(with("expected_version", "3").as_bytes(), &save).unwrap();
    assert_eq!(
        (item.operation, item.expected_version),
        (Operation::Replace, None)
    );
}

#[test]
fn lines_stand_for_themselves() {
    let good = with("id", "7");
    let text = format!("{good}\r\n\n  \n{{\n[{good}]\n{good}\n\"\\ud800\"\n{good}");
    let items = read_lines(text.as_bytes()).unwrap();
    let problems: Vec<_> = items
        .iter()
        .map(|item| item.as_ref().err().map(|refusal| refusal.problem))
        .collect();
    let (bad, ok) = (Some(Problem::Invalid), None);
    assert_eq!(problems, [ok, Some(Problem::Malformed), bad, ok, bad, ok]);
    let mut not_utf8 = good.clone().into_bytes();
    not_utf8.extend_from_slice(b"\n\xff\n");
    let items = read_lines(&not_utf8).unwrap();
    assert!(items[0].is_ok());
    assert_eq!(items[1].as_ref().unwrap_err().problem, Problem::Malformed);
    assert_eq!(read_lines(b"\n \n").unwrap_err().problem, Problem::Empty);
}

#[test]
fn there_are_only_so_many_items() {
    let array = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
    assert!(read(array(ITEMS_MAX).as_bytes()).is_ok());
    let refusal = read(array(ITEMS_MAX + 1).as_bytes()).unwrap_err();
    assert_eq!(refusal.problem, Problem::TooLarge);
    let reread = array(ITEMS_MAX).replacen('1', "1e999", 1);
    assert!(read(reread.as_bytes()).is_ok());
    let reread = array(ITEMS_MAX + 1).replacen('1', "1e999", 1);
    assert_eq!(
        read(reread.as_bytes()).unwrap_err().problem,
        Problem::TooLarge
    );
    assert_eq!(
        read_lines("1\n".repeat(ITEMS_MAX).as_bytes())
            .unwrap()
            .len(),
        ITEMS_MAX
    );
    let refusal = read_lines("1\n".repeat(ITEMS_MAX + 1).as_bytes()).unwrap_err();
    assert_eq!(refusal.problem, Problem::TooLarge);
}

#[test]
fn an_answer_is_no_echo_of_what_was_sent() {
    let long = "y".repeat(10_000);
    let item = one(&with(&long, "1"));
    assert_eq!(pointers(item), [""]);
    let many: Vec<_> = (0..1_000).map(|_| "\"a\":1").collect();
    let refusal = one(&format!("{{{}}}", many.join(","))).unwrap_err();
    assert!(refusal.faults.len() <= FAULTS_MAX);
}
