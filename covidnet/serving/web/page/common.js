"use strict";

// What the pages share. Every text from the server or a file is set through textContent, so it is never parsed as HTML.

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function make(tag, text, name) {
  const found = document.createElement(tag);
  if (text !== undefined) found.textContent = text;
  if (name) found.className = name;
  return found;
}

function sentence(text) {
  const trimmed = String(text).trim();
  if (!trimmed) return "";
  const whole = trimmed[0].toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(whole) ? whole : `${whole}.`;
}

// The browser asks for a login that the server requires

const ask = (path, options = {}) => fetch(path, options);
