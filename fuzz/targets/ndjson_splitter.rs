//! Items from foreign NDJSON: as many as there are lines with something on them, and each is what
//! it is when it stands alone.
#![no_main]

use contract::Problem;
use contract::limits::ITEMS_MAX;
use gateway::opinion;
use json::Body;
use libfuzzer_sys::fuzz_target;

mod gateway;
gateway!();

fuzz_target!(|data: &[u8]| {
    let Some((form, body)) = data.split_first() else {
        return;
    };
    let form = gateway::form(*form);
    let lines = || {
        body.split(|byte| *byte == b'\n')
            .filter(|line| !opinion::is_blank(line))
    };
    let items = match json::read_lines(body, &form) {
        Ok(items) => items,
        Err(refusal) => {
            let lines = lines().count();
            match refusal.problem {
                Problem::Empty => assert_eq!(lines, 0),
                Problem::TooLarge => assert!(lines > ITEMS_MAX),
                other => panic!("{other:?} for {lines} lines"),
            }
            return;
        }
    };
    assert_eq!(items.len(), lines().count());
    for (item, line) in items.iter().zip(lines()) {
        opinion::check_item(line, item);
        let alone = json::read_one(line, &form).map_err(Box::new);
        assert_eq!(&alone, item, "alone it is another");
    }
    // As an array, as far as they are JSON, in one as well: their faults do not touch each other.
    let (held, expected): (Vec<_>, Vec<_>) = lines()
        .zip(&items)
        .filter(|(line, _)| opinion::is_json(line))
        .filter(|(line, _)| opinion::is_json(&[b"[", *line, b"]"].concat()))
        .unzip();
    if held.is_empty() {
        return;
    }
    let array = [b"[", &held.join(&b","[..])[..], b"]"].concat();
    match json::read(&array, &form) {
        Ok(Body::Many(elements)) => assert!(elements.iter().eq(expected)),
        other => panic!("{other:?}"),
    }
});
