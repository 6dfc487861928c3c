"""An app for test_streamlit.py."""

import time

import streamlit as st

st.title("Streamlit through fasttunnel")
if "count" not in st.session_state:
    st.session_state.count = 0
if st.button("More"):
    st.session_state.count += 1
st.write(f"counted to {st.session_state.count}")
if st.button("Tell"):
    st.write_stream(f"word{number} " for number in range(20) if time.sleep(0.1) is None)
note = st.text_input("Note")
st.write(f"noted {note}")
