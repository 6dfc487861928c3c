import "./style.css";
import { greeting } from "./greeting.js";

const show = (text) => { document.querySelector("#greeting").textContent = text; };

show(greeting);
document.querySelector("#loaded").textContent = new Date().toLocaleTimeString();
document.querySelector("#more").onclick = () => { document.querySelector("#count").value++; };

import.meta.hot.accept("./greeting.js", (changed) => show(changed.greeting));
