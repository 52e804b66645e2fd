//! Answers, and how failures look.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What a call ends with.
pub type Reply = Result<Answer, Failure>;

/// 200 with data.
#[derive(Debug)]
pub struct Answer {
    pub data: Value,
    /// How many there are in all, where the data is a part.
    pub total: Option<usize>,
}

impl From<Value> for Answer {
    fn from(data: Value) -> Self {
        Answer { data, total: None }
    }
}

/// Any other status. The reason phrase carries the message.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub status: u16,
    pub reason: String,
    pub errors: BTreeMap<String, String>,
    pub body: Body,
}

/// What is in a failure's body.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Body {
    /// `{"data":null,"message":…}`.
    Json,
    /// The reason once more, as text.
    Text,
    Empty,
}

impl Failure {
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        Failure {
            status,
            reason: reason.into(),
            errors: BTreeMap::new(),
            body: Body::Json,
        }
    }

    pub fn with_body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// 500: what Perl's `die` in a handler becomes.
    pub fn died(reason: impl Into<String>) -> Self {
        Failure::new(500, reason)
    }

    pub fn unauthorized(reason: &str) -> Self {
        Failure::new(401, reason).with_body(Body::Empty)
    }

    pub fn forbidden(path: &str, privileges: &str) -> Self {
        Failure::new(
            403,
            format!("Permission check failed ({path}, {privileges})"),
        )
    }

    /// 400 with what is wrong with each parameter.
    pub fn parameters(errors: BTreeMap<String, String>) -> Self {
        Failure {
            errors,
            ..Failure::new(400, "Parameter verification failed.")
        }
    }

    pub fn parameter(name: &str, wrong: impl Into<String>) -> Self {
        Failure::parameters([(name.to_owned(), wrong.into())].into())
    }

    /// How a task ends that fails so.
    pub fn exit(&self) -> String {
        let errors = self.errors.iter();
        let errors = errors.map(|(name, wrong)| format!("{name}: {}", wrong.trim()));
        let told = [vec![self.reason.clone()], errors.collect()]
            .concat()
            .join(" ");
        match self.errors.is_empty() {
            true => told,
            false => format!("{} {told}", self.status),
        }
    }

    pub fn content(&self) -> Vec<u8> {
        match self.body {
            Body::Empty => vec![],
            Body::Text => self.reason.clone().into_bytes(),
            Body::Json => {
                // Perl's `die` ends its message with a newline, an unknown call is not died of.
                let end = if self.status == 501 { "" } else { "\n" };
                let mut body = json!({"data": null, "message": format!("{}{end}", self.reason)});
                if !self.errors.is_empty() {
                    body["errors"] = json!(self.errors);
                }
                body.to_string().into_bytes()
            }
        }
    }
}
