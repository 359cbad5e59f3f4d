//! Commands made up by a seed: mostly valid, often not, some twice.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One connection's commands.
pub(super) struct Commands {
    state: u64,
    connection: u64,
    couriers: u64,
    made: u64,
    movements: Vec<Value>,
}

impl Commands {
    pub(super) fn new(connection: u64, couriers: u64) -> Self {
        Self {
            state: connection + 1,
            connection,
            couriers,
            made: 0,
            movements: Vec::new(),
        }
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014): anything that repeats by its seed will do.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// So many commands, one per line.
    pub(super) fn lines(&mut self, count: usize) -> String {
        let mut lines = String::new();
        for _ in 0..count {
            let command = self.command();
            writeln!(lines, "{command}").expect("a string grows");
        }
        lines
    }

    fn command(&mut self) -> Value {
        self.made += 1;
        let courier = format!("c-{}", self.below(self.couriers));
        let mut command = match self.below(100) {
            0..15 => json!({
                "command": "create", "courier_id": courier, "name": format!("of {}", self.connection % 3),
                "max_capacity": 100,
            }),
            15..30 => self.update(&courier),
            30..40 => json!({
                "command": "set_capacity", "courier_id": courier,
                "available_capacity": self.below(120),
            }),
            40..43 => json!({"command": "delete", "courier_id": courier}),
            43..50 if !self.movements.is_empty() => return self.again(),
            what => {
                let word = if what < 75 { "pickup" } else { "dropoff" };
                let movement = json!({
                    "command": word, "courier_id": courier, "capacity": 1 + self.below(60),
                    "reference": format!("{}-{}", self.connection, self.made),
                });
                self.movements.push(movement.clone());
                return movement;
            }
        };
        if command["command"] != "create" && self.below(4) == 0 {
            command["expected_version"] = (1 + self.below(12)).into();
        }
        command
    }

    fn update(&mut self, courier: &str) -> Value {
        let mut command = json!({"command": "update", "courier_id": courier});
        if self.below(2) == 0 {
            command["name"] = format!("name {}", self.below(4)).into();
        }
        if self.below(2) == 0 {
            command["max_capacity"] = (40 + self.below(100)).into();
        }
        if self.below(4) == 0 {
            command["vehicle_type"] = if self.below(2) == 0 {
                Value::Null
            } else {
                "van".into()
            };
        }
        command
    }

    /// A movement that was sent before, sometimes with another capacity.
    fn again(&mut self) -> Value {
        let count = u64::try_from(self.movements.len()).expect("small");
        let at = usize::try_from(self.below(count)).expect("small");
        let mut movement = self.movements[at].clone();
        if self.below(4) == 0 {
            movement["capacity"] = 61.into();
        }
        movement
    }
}
