//! What the reconciler knows, and why: for administrators.

use super::Session;
use crate::{
    Failure,
    args::{Debug, GraphForm},
    kinds::{escape, targets},
    output::say,
};
use serde_json::Value;

impl Session {
    pub(super) async fn debug(&self, what: &Debug) -> Result<(), Failure> {
        match what {
            Debug::Graph { form } => {
                let about = match form {
                    GraphForm::Counters => "counters",
                    GraphForm::Dot => "dot",
                    GraphForm::Mermaid => "mermaid",
                    GraphForm::Json => "dump",
                };
                self.ask(about).await
            }
            Debug::Explain { target } => {
                let targets = targets(target)?;
                let [(kind, name)] = targets.named.as_slice() else {
                    return Err(Failure::Usage("name one object, for example `vm web-1`".into()));
                };
                let object = self.find(kind, name).await?;
                let id = ["/metadata/id", "/id"].iter().find_map(|at| object.pointer(at));
                let id = id.and_then(Value::as_str).unwrap_or(name);
                self.ask(&format!("{}:{id}", kind.name)).await
            }
        }
    }

    async fn ask(&self, about: &str) -> Result<(), Failure> {
        let answer = self.client.stream(&format!("/debug/graph?about={}", escape(about))).await?;
        let text = answer.text().await.map_err(|e| Failure::Other(e.to_string()))?;
        say!("{}", text);
        if !text.ends_with('\n') {
            say!("\n");
        }
        Ok(())
    }
}
