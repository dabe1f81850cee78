//! What reports of measurements have in common: the machine, the spread of rounds, pictures, the marked section of a
//! Markdown file, and the line that says how far it is.

mod drawing;
mod machine;
mod progress;
mod section;
mod spread;

#[cfg(test)]
pub(crate) use drawing::tests::assert_well_formed;
pub(crate) use drawing::{Drawing, dashes};
pub(crate) use machine::{Machine, command_line, today};
pub(crate) use progress::Progress;
pub(crate) use section::{Section, Span};
pub(crate) use spread::Spread;
