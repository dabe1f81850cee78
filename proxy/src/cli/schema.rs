//! `warbler schema`: the JSON Schema of configuration files, for editors.

use std::io::{self, Write};

use crate::config::reference::schema::schema;

/// Writes the schema.
///
/// # Errors
///
/// When `out` takes no more.
pub fn print(out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &schema())?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_is_one_json_object_with_a_line_end() {
        let mut out = Vec::new();
        super::print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(text.ends_with("}\n") && schema["properties"]["listeners"].is_object());
    }
}
