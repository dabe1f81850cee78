//! The JSON twin of the binary frames: one object per WebSocket text message, for `curl`, `websocat`, and people.
//!
//! Rules beyond serde's own, all in docs/protocol.md: the frame's name is in `"type"`; client message ids are 32
//! hexadecimal digits; a body is a string when it is UTF-8 and `{"base64": "…"}` when it is not; codes are names.
//! Missing fields have protobuf's defaults and unknown ones are ignored, so both forms grow in the same way.

use std::marker::PhantomData;

use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

use crate::frame::{Frame, FrameError, KickReason, LoginCode, MAX_FRAME, PresenceState, RefusalCode};

impl Frame {
    /// This frame as a JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("frames have string keys and no failing serializers")
    }

    /// Reads one JSON object. Never `None`: because this form is typed by hand, a name that is unknown is told as a
    /// mistake. All frames of this version have theirs.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] above [`MAX_FRAME`], [`FrameError::MalformedJson`] if it is no frame of ours.
    pub fn from_json(text: &str) -> Result<Option<Self>, FrameError> {
        if text.len() > MAX_FRAME {
            return Err(FrameError::TooLong { length: text.len() });
        }
        Ok(Some(serde_json::from_str(text)?))
    }
}

/// A client message id as 32 hexadecimal digits; hyphens as in a UUID are accepted.
///
/// Any length passes through: it is the server that demands 16 bytes, with an error of its own.
pub(crate) mod id {
    use std::fmt::Write as _;

    use bytes::Bytes;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(id: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = String::with_capacity(id.len() * 2);
        for byte in id {
            write!(digits, "{byte:02x}").expect("a string takes everything");
        }
        serializer.serialize_str(&digits)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let digits = String::deserialize(deserializer)?.replace('-', "");
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || digits.len() % 2 != 0 {
            return Err(D::Error::custom("a client message id is 32 hexadecimal digits"));
        }
        (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).map_err(D::Error::custom))
            .collect()
    }
}

/// A body: `"text"` when it is UTF-8, else `{"base64": "…"}`.
pub(crate) mod body {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use bytes::Bytes;

    use super::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(untagged)]
    enum Body {
        Text(String),
        Binary { base64: String },
    }

    pub(crate) fn serialize<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(body) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Body::Binary { base64: STANDARD.encode(body) }.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Body::deserialize(deserializer)? {
            Body::Text(text) => Ok(text.into()),
            Body::Binary { base64 } => STANDARD.decode(base64).map(Bytes::from).map_err(D::Error::custom),
        }
    }
}

/// A code as its name; a number that has none here (a later version's) stays a number.
pub(crate) struct Code<C>(PhantomData<C>);

impl<C: Named> Code<C> {
    pub(crate) fn serialize<S: Serializer>(code: &i32, serializer: S) -> Result<S::Ok, S::Error> {
        match C::ALL.iter().find(|(_, named)| (*named).into() == *code) {
            Some((name, _)) => serializer.serialize_str(name),
            None => serializer.serialize_i32(*code),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Written {
            Name(String),
            Number(i32),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(number),
            Written::Name(wanted) => C::ALL
                .iter()
                .find(|(name, _)| *name == wanted)
                .map(|(_, code)| (*code).into())
                .ok_or_else(|| D::Error::custom(format!("`{wanted}` is no code of this frame"))),
        }
    }
}

/// A code with names for people.
pub(crate) trait Named: Copy + Into<i32> + 'static {
    const ALL: &'static [(&'static str, Self)];
}

/// The name of a code; `unspecified` for a number that has none here.
pub(crate) fn name<C: Named>(code: i32) -> &'static str {
    C::ALL.iter().find(|(_, named)| (*named).into() == code).map_or("unspecified", |(name, _)| name)
}

impl Named for LoginCode {
    const ALL: &'static [(&'static str, Self)] = &[
        ("unspecified", Self::Unspecified),
        ("token_malformed", Self::TokenMalformed),
        ("token_algorithm", Self::TokenAlgorithm),
        ("token_signature", Self::TokenSignature),
        ("token_expired", Self::TokenExpired),
        ("token_not_yet_valid", Self::TokenNotYetValid),
        ("user_invalid", Self::UserInvalid),
        ("device_invalid", Self::DeviceInvalid),
        ("try_later", Self::TryLater),
        ("too_many_sessions", Self::TooManySessions),
    ];
}

impl Named for RefusalCode {
    const ALL: &'static [(&'static str, Self)] = &[
        ("unspecified", Self::Unspecified),
        ("conv_invalid", Self::ConvInvalid),
        ("not_a_member", Self::NotAMember),
        ("id_invalid", Self::IdInvalid),
        ("body_too_long", Self::BodyTooLong),
        ("too_many_rooms", Self::TooManyRooms),
        ("not_stored", Self::NotStored),
        ("busy", Self::Busy),
        ("user_invalid", Self::UserInvalid),
        ("too_many_users", Self::TooManyUsers),
        ("state_invalid", Self::StateInvalid),
        ("too_fast", Self::TooFast),
        ("kind_invalid", Self::KindInvalid),
    ];
}

impl Named for PresenceState {
    const ALL: &'static [(&'static str, Self)] = &[
        ("unspecified", Self::Unspecified),
        ("online", Self::Online),
        ("busy", Self::Busy),
        ("away", Self::Away),
        ("offline", Self::Offline),
    ];
}

impl Named for KickReason {
    const ALL: &'static [(&'static str, Self)] =
        &[("unspecified", Self::Unspecified), ("same_device", Self::SameDevice)];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{LoginErr, Send};

    fn check(text: &str, want: &Frame) {
        assert_eq!(Frame::from_json(text).unwrap().as_ref(), Some(want));
    }

    #[test]
    fn ids_may_be_written_like_a_uuid_and_bodies_as_text_or_base64() {
        let send = |body: &'static [u8]| {
            Frame::Send(Send {
                conv: "room:a".into(),
                client_msg_id: (0..16).collect(),
                body: body.into(),
                ..Send::default()
            })
        };
        let head = r#""type":"send","conv":"room:a","client_msg_id":"#;
        check(&format!(r#"{{{head}"000102030405060708090a0b0c0d0e0f","body":"hi"}}"#), &send(b"hi"));
        check(
            &format!(r#"{{{head}"00010203-0405-0607-0809-0a0b0c0d0e0f","body":{{"base64":"//8="}}}}"#),
            &send(&[0xff, 0xff]),
        );
    }

    #[test]
    fn codes_are_names_and_unknown_numbers_stay() {
        let expired = Frame::LoginErr(LoginErr { code: LoginCode::TokenExpired.into(), retry_after_ms: 0 });
        assert_eq!(expired.to_json(), r#"{"type":"login_err","code":"token_expired","retry_after_ms":0}"#);
        check(r#"{"type":"login_err","code":"token_expired"}"#, &expired);
        check(r#"{"type":"login_err","code":99}"#, &Frame::LoginErr(LoginErr { code: 99, retry_after_ms: 0 }));
    }

    #[test]
    fn an_unknown_frame_is_an_error() {
        assert!(Frame::from_json(r#"{"type":"sendd"}"#).is_err());
        assert!(Frame::from_json("[]").is_err());
    }

    #[test]
    fn an_id_that_is_not_hexadecimal_is_an_error_and_not_a_panic() {
        assert!(Frame::from_json(r#"{"type":"send","client_msg_id":"é1"}"#).is_err());
        assert!(Frame::from_json(r#"{"type":"send","client_msg_id":"abc"}"#).is_err());
    }
}
