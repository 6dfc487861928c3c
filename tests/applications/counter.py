"""An app for test_streamlit.py."""

import os
from collections.abc import Iterator

import streamlit as st


def words() -> Iterator[str]:
    """Each when it is asked for."""
    with open(os.environ["STEPS"]) as go:
        for number in range(20):
            yield f"word{number} "
            go.readline()


st.title("Streamlit through fasttunnel")
if "count" not in st.session_state:
    st.session_state.count = 0
if st.button("More"):
    st.session_state.count += 1
st.write(f"counted to {st.session_state.count}")
if st.button("Tell"):
    st.write_stream(words())
note = st.text_input("Note")
st.write(f"noted {note}")
