"""Controls of the page: round icon buttons, and the menu with the settings of the replies."""

from collections.abc import Callable
from typing import Any

from nicegui import ui

from tuition.client.api import Model
from tuition.studio.conversation import Choices

MAX_TEMPERATURE, TEMPERATURE_STEP = 1.5, 0.05
LEAST_TOKENS, MOST_TOKENS = 16, 2_048
DEFAULT_TOKENS = 512
SERVER_TEMPERATURE = 1.0
"""What the server takes where neither the request nor the model names a temperature."""


def icon_button(icon: str, label: str, on_click: Any = None) -> ui.button:
    """A round button that shows an icon; its label is its tooltip and its name for screen readers."""
    button = ui.button(icon=icon, on_click=on_click, color=None).props("flat round dense")
    return button.classes("icon-button").props(f'aria-label="{label}" title="{label}"')


class SettingsMenu:
    """Sliders for temperature and length; what the reader has not moved is left to the model."""

    def __init__(self, on_change: Callable[[Choices], None]) -> None:
        self._on_change = on_change
        self._choices = Choices()
        self._quiet = False
        with icon_button("tune", "Settings"):
            menu = ui.menu().props('anchor="bottom right" self="top right" max-height="80vh"')
            with menu, ui.element("section").classes("settings"):
                ui.html("Settings", tag="h2")
                self._temperature, self._temperature_shown = self._slider(
                    ("Temperature", "Temperature"),
                    (0, MAX_TEMPERATURE, TEMPERATURE_STEP),
                    lambda value: self._change(temperature=round(value, 2)),
                    "0 always takes the most likely token; higher values vary more.",
                )
                self._length, self._length_shown = self._slider(
                    ("Longest reply", "Longest reply, in tokens"),
                    (LEAST_TOKENS, MOST_TOKENS, LEAST_TOKENS),
                    lambda value: self._change(max_tokens=int(value)),
                    "A token is about three quarters of a word.",
                )
        self.show(Choices(), None)

    def show(self, choices: Choices, model: Model | None) -> None:
        """Show the choices of this conversation, and the model's own values where there is none."""
        self._choices = choices
        own = SERVER_TEMPERATURE if model is None else model.sampling.get("temperature", SERVER_TEMPERATURE)
        self._quiet = True
        self._temperature.value = own if choices.temperature is None else choices.temperature
        self._length.value = choices.max_tokens or DEFAULT_TOKENS
        self._quiet = False
        self._say()

    def _change(self, **changed: Any) -> None:
        if not self._quiet:
            self._choices = Choices(**{**vars(self._choices), **changed})
            self._say()
            self._on_change(self._choices)

    def _say(self) -> None:
        whose = "model default" if self._choices.temperature is None else "yours"
        self._temperature_shown.set_content(f"{self._temperature.value:.2f} ({whose})")
        self._length_shown.set_content(f"{int(self._length.value or 0):,} tokens")

    def _slider(
        self,
        names: tuple[str, str],
        scale: tuple[float, float, float],
        change: Callable[[float], None],
        note: str,
    ) -> tuple[ui.slider, ui.html]:
        title, label = names
        low, high, step = scale
        with ui.element("div").classes("setting"):
            with ui.element("div").classes("setting-head"):
                ui.label(title)
                shown = ui.html("", tag="b")
            slider = ui.slider(
                min=low, max=high, step=step, value=low, on_change=lambda event: change(event.value)
            )
            slider.props(f'aria-label="{label}"')
            ui.label(note).classes("setting-note")
        return slider, shown
