"""Pages that show a broker and change it, for a browser.

How the parts fit:

- ``model`` has the classes of what is shown, and ``backend`` what pages need of a broker. ``local`` is the backend of
  ``melange server``, ``aws`` that of an account.
- ``console`` has the table of addresses. It finds the handler of a request, checks forms, and sends pages with their
  security headers.
- ``pages`` are the handlers, a module for each kind of page. A handler gets a ``Visit`` and returns a ``Page`` or a
  ``Redirect``.
- ``rendering`` fills the templates in ``templates``. They work without JavaScript: ``assets/console.js`` replaces the parts
  of a page that have the attribute ``data-live`` every other second.
- ``reading`` makes text of a message's body readable. ``graph`` and ``charts`` compute the coordinates of drawings;
  ``charts`` also samples the depths and rates.

Handlers never change anything on GET. A POST that deletes has a GET at the same address that asks first.
"""

from melange.console.backend import Backend
from melange.console.console import Console

__all__ = ["Backend", "Console"]
