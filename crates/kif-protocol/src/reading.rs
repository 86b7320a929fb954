//! Where protocols come from, and how they are written.

use std::path::Path;

use crate::{Protocol, ProtocolError};

/// Protocols that the program brings along, by name.
const BUILT_IN: [(&str, &str); 6] = [
    ("quick", include_str!("../protocols/quick.ron")),
    ("standard", include_str!("../protocols/standard.ron")),
    ("long", include_str!("../protocols/long.ron")),
    ("superni", include_str!("../protocols/superni.ron")),
    (
        "standard-llama",
        include_str!("../protocols/standard-llama.ron"),
    ),
    ("long-llama", include_str!("../protocols/long-llama.ron")),
];

impl Protocol {
    /// A built-in protocol by its name, or the file of that path. Not yet checked: flags may still
    /// change it.
    pub fn load(name_or_path: &str) -> Result<Self, ProtocolError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(name, text);
        }
        let path = Path::new(name_or_path);
        if !path.exists() {
            let known = BUILT_IN.map(|(name, _)| name).to_vec();
            return Err(ProtocolError::Unknown {
                name: name_or_path.to_owned(),
                known,
            });
        }
        let text = std::fs::read_to_string(path).map_err(|error| ProtocolError::Unreadable {
            path: name_or_path.to_owned(),
            error,
        })?;
        Self::parse(name_or_path, &text)
    }

    /// Reads a protocol from RON; `path` is for messages.
    pub fn parse(path: &str, text: &str) -> Result<Self, ProtocolError> {
        kif_io::ron::ron_options()
            .from_str(text)
            .map_err(|error| ProtocolError::Syntax {
                path: path.to_owned(),
                line: error.span.start.line,
                column: error.span.start.col,
                message: error.code.to_string(),
            })
    }

    /// The protocol as RON, every default written out, the settings of every method included.
    pub fn to_ron(&self) -> String {
        let mut resolved = self.clone();
        resolved.own_methods = self
            .methods
            .iter()
            .filter_map(|m| Some((m.clone(), self.method(m)?)))
            .collect();
        let pretty = ron::ser::PrettyConfig::new().struct_names(false);
        let text = kif_io::ron::ron_options()
            .to_string_pretty(&resolved, pretty)
            .expect("a protocol has nothing that RON lacks");
        format!("{text}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StreamSource;

    #[test]
    fn built_in_protocols_are_valid_and_survive_being_written() {
        for (name, _) in BUILT_IN {
            let mut protocol = Protocol::load(name).unwrap();
            if protocol.stream != StreamSource::Embedded {
                protocol.data = Some("data".into());
                protocol.model = Some("model".into());
            }
            assert!(protocol.problems().is_empty(), "{:?}", protocol.problems());
            let read = Protocol::parse(name, &protocol.to_ron()).unwrap();
            assert_eq!(read.to_ron(), protocol.to_ron(), "{name}");
        }
    }

    #[test]
    fn unknown_fields_are_refused_with_their_line() {
        let text = "(\n name: \"x\",\n stream: embedded,\n methods: [\"seq_lora\"],\n seeds: [1],\n training: (epoch: 3),\n)";
        let message = Protocol::parse("x.ron", text).unwrap_err().to_string();
        assert!(
            message.contains("x.ron, line 6") && message.contains("epoch"),
            "{message}"
        );
    }
}
