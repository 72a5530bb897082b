import { ReactWidget } from '@jupyterlab/ui-components';
import { Widget } from '@lumino/widgets';

const GAP = 4;

/** A small panel beside what was clicked; Escape, a click elsewhere and a lost focus close it. */
export class Popover {
  private constructor(
    private readonly _body: ReactWidget,
    private readonly _anchor: HTMLElement
  ) {}

  /** Show it; whatever was shown before for the same anchor is closed, and then nothing else is shown. */
  static toggle(anchor: HTMLElement, label: string, make: (close: () => void) => ReactWidget): void {
    const open = Popover._open;
    open?._close();
    if (open?._anchor !== anchor) {
      const body = make(() => Popover._open?._close());
      Popover._open = new Popover(body, anchor);
      Popover._open._show(label);
    }
  }

  private static _open: Popover | null = null;

  private _show(label: string): void {
    const node = this._body.node;
    this._body.addClass('hyper-Popover');
    this._body.addClass('jp-ThemedContainer');
    node.setAttribute('role', 'dialog');
    node.setAttribute('aria-label', label);
    node.tabIndex = -1;
    this._anchor.setAttribute('aria-expanded', 'true');
    Widget.attach(this._body, document.body);
    void this._body.renderPromise?.then(() => {
      this._place();
      node.focus();
    });
    document.addEventListener('pointerdown', this._onPointer, true);
    node.addEventListener('keydown', this._onKey);
    node.addEventListener('focusout', this._onFocusOut);
  }

  private _place(): void {
    const { node } = this._body;
    const anchor = this._anchor.getBoundingClientRect();
    const { width, height } = node.getBoundingClientRect();
    const left = Math.max(GAP, Math.min(anchor.right - width, window.innerWidth - width - GAP));
    const isBelow = anchor.bottom + GAP + height <= window.innerHeight;
    node.style.left = `${left}px`;
    node.style.top = `${isBelow ? anchor.bottom + GAP : Math.max(GAP, anchor.top - GAP - height)}px`;
  }

  private _close(): void {
    if (Popover._open === this) {
      Popover._open = null;
    }
    document.removeEventListener('pointerdown', this._onPointer, true);
    this._anchor.setAttribute('aria-expanded', 'false');
    this._body.node.removeEventListener('focusout', this._onFocusOut);
    this._body.dispose();
  }

  private readonly _onPointer = (event: Event) => {
    const target = event.target as Node;
    if (!this._body.node.contains(target) && !this._anchor.contains(target)) {
      this._close();
    }
  };

  private readonly _onFocusOut = (event: FocusEvent) => {
    const target = event.relatedTarget as Node | null;
    if (target && !this._body.node.contains(target) && !this._anchor.contains(target)) {
      this._close();
    }
  };

  private readonly _onKey = (event: KeyboardEvent) => {
    if (event.key === 'Escape') {
      event.stopPropagation();
      this._close();
      this._anchor.focus();
    }
  };
}
